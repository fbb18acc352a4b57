//! `sluicegate vm`: what is said before a boot. A whole boot takes a host that runs guests and the
//! kernel's library, which this project does not install: `SLUICEGATE_KRUNFW` names it where both
//! are there.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::guest::sluicegate;
use crate::needs;
use crate::process::{self, Finished};

/// `sluicegate vm` with `arguments`, where `hide` was run before in a mount namespace of its own.
fn vm_where(hide: &str, arguments: &str) -> Finished {
    let binary = sluicegate().get_program().to_owned();
    let mut shell = Command::new("unshare");
    let script = format!("{hide}; exec \"$0\" vm {arguments}");
    process::run(shell.args(["--mount", "sh", "-ec", &script]).arg(binary))
}

#[test]
fn a_root_that_is_no_directory_is_named() {
    let said = process::run(sluicegate().args(["vm", "--rootfs", "/nowhere", "--", "true"]));
    assert_eq!(said.code, 125);
    assert_eq!(said.errors, "sluicegate: --rootfs /nowhere: not a directory\n");
}

#[test]
fn a_kernel_that_is_not_there_is_named_with_where_to_get_it() {
    let said = process::run(sluicegate().args([
        "vm",
        "--rootfs",
        "/",
        "--krunfw",
        "/nowhere.so",
        "--",
        "true",
    ]));
    assert_eq!(
        (said.code, said.errors.as_str()),
        (125, "sluicegate: --krunfw /nowhere.so: not a file\n")
    );
    if !needs::are_met(&["unshare"]) {
        return;
    }
    // Wherever a library of this machine may be.
    let hide = "for d in /usr/local/lib64 /usr/local/lib; do \
                [ ! -d $d ] || mount -t tmpfs none $d; done";
    let said = vm_where(hide, "--rootfs / -- true");
    let installed = ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu"]
        .iter()
        .any(|folder| std::path::Path::new(folder).join("libkrunfw.so.5").exists());
    if !installed {
        assert_eq!(said.code, 125, "{said:?}");
        for part in ["libkrunfw.so.5", "pip download --no-deps microsandbox", "--krunfw PATH"] {
            assert!(said.errors.contains(part), "{said:?}");
        }
    }
}

#[test]
fn a_host_without_kvm_says_so_before_anything_starts() {
    if !needs::are_met(&["unshare"]) {
        return;
    }
    // Any file does as a kernel: it is not opened before the probe.
    let said = vm_where("mount -t tmpfs none /dev", "--rootfs / --krunfw /etc/passwd -- true");
    assert_eq!(said.code, 125, "{said:?}");
    assert!(said.errors.contains("no /dev/kvm"), "{said:?}");
    assert!(said.errors.contains("sluicegate run"), "{said:?}");
    let said = vm_where(
        "mount -t tmpfs none /dev; touch /dev/kvm",
        "--rootfs / --krunfw /etc/passwd -- true",
    );
    assert_eq!(said.code, 125, "{said:?}");
    assert!(said.errors.contains("/dev/kvm"), "{said:?}");
}

#[test]
fn a_guest_boots_where_one_can() {
    let Some(krunfw) = std::env::var_os("SLUICEGATE_KRUNFW") else {
        eprintln!("SKIPPED: a boot needs a host that runs guests, and SLUICEGATE_KRUNFW=PATH");
        return;
    };
    if !needs::are_met(&["busybox"]) {
        return;
    }
    let root = std::env::temp_dir().join(format!("sluicegate-vm-{}", std::process::id()));
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for program in ["sh", "ip", "mount", "ping"] {
        symlink("busybox", root.join("bin").join(program)).unwrap();
    }
    std::fs::write(root.join("etc/resolv.conf"), "").unwrap();
    let mut vm = sluicegate();
    vm.arg("vm").arg("--rootfs").arg(&root).arg("--krunfw").arg(krunfw);
    let said = process::run(vm.args(["--", "sh", "-c", "ping -c 1 100.96.0.1 && exit 7"]));
    std::fs::remove_dir_all(&root).unwrap();
    assert_eq!(said.code, 7, "{said:?}");
}
