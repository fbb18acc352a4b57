//! Whether this host runs guests at all: a machine of two instructions tells within a blink, where
//! a whole guest would hang or die without a word. Owns what is said if not.

#![allow(unsafe_code, reason = "a machine is lent a page of this process")]

use std::io::ErrorKind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::cli::failure::Failure;

/// How long two instructions may take. Where guests do not run, some hosts try for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the two instructions.
///
/// # Errors
/// What is wrong, and the way out.
pub(super) fn probe() -> Result<(), Failure> {
    let (tell, heard) = channel();
    // A thread that hangs in the kernel ends with the process, which is about to.
    std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
        let _ = tell.send(run());
    })?;
    match heard.recv_timeout(PATIENCE) {
        Ok(done) => done.map_err(Failure::from),
        Err(RecvTimeoutError::Timeout) => Err(unable("hangs").into()),
        Err(RecvTimeoutError::Disconnected) => Err(unable("fails").into()),
    }
}

fn unable(how: &str) -> String {
    format!(
        "/dev/kvm is there, but a guest of two instructions {how}: this host can't run microVMs \
         (in a virtual machine it takes nested virtualization); `sluicegate run` needs none"
    )
}

fn cannot_open(error: std::io::Error) -> String {
    if error.kind() == ErrorKind::NotFound {
        "this host has no /dev/kvm: microVMs need hardware virtualization (load kvm_intel or \
         kvm_amd; in a virtual machine, turn nested virtualization on); `sluicegate run` needs none"
            .to_owned()
    } else if error.kind() == ErrorKind::PermissionDenied {
        "/dev/kvm may not be opened by this user: join the group kvm, or be root".to_owned()
    } else {
        format!("/dev/kvm: {error}")
    }
}

#[cfg(target_arch = "x86_64")]
fn run() -> Result<(), String> {
    use kvm_bindings::kvm_userspace_memory_region;
    use kvm_ioctls::{Kvm, VcpuExit};

    /// `mov al, 42; out 16, al`
    const CODE: [u8; 4] = [0xb0, 42, 0xe6, 16];
    const PAGE_BYTES: usize = 4096;

    let kvm = Kvm::new().map_err(|error| cannot_open(std::io::Error::from(error)))?;
    let failed = |step: &str, error: kvm_ioctls::Error| unable(&format!("fails ({step}: {error})"));
    let mut page = memmap2::MmapMut::map_anon(PAGE_BYTES).map_err(|error| error.to_string())?;
    let vm = kvm.create_vm().map_err(|error| failed("a machine", error))?;
    page[..CODE.len()].copy_from_slice(&CODE);
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: PAGE_BYTES as u64,
        userspace_addr: page.as_ptr() as u64,
    };
    // SAFETY: the page was made before the machine, so it is unmapped after that is gone.
    unsafe { vm.set_user_memory_region(region) }.map_err(|error| failed("memory", error))?;
    let mut processor = vm.create_vcpu(0).map_err(|error| failed("a processor", error))?;
    let mut special = processor.get_sregs().map_err(|error| failed("registers", error))?;
    (special.cs.base, special.cs.selector) = (0, 0);
    processor.set_sregs(&special).map_err(|error| failed("registers", error))?;
    let mut registers = processor.get_regs().map_err(|error| failed("registers", error))?;
    (registers.rip, registers.rflags) = (0, 2);
    processor.set_regs(&registers).map_err(|error| failed("registers", error))?;
    match processor.run() {
        Ok(VcpuExit::IoOut(16, [42])) => Ok(()),
        Ok(other) => Err(unable(&format!("stops at {other:?}"))),
        Err(error) => Err(failed("running", error)),
    }
}

/// Elsewhere the boot tells.
#[cfg(not(target_arch = "x86_64"))]
fn run() -> Result<(), String> {
    std::fs::File::open("/dev/kvm").map(drop).map_err(cannot_open)
}
