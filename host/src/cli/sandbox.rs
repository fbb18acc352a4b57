//! What this process gives up once it has the guest's link: a fault in it is then worth less.
//!
//! Owns what is given up, and how. Nothing of it is needed to serve a guest: capabilities (but that
//! to listen at ports below 1024), new privileges, files to be written or run (Landlock), and the
//! system calls that change what a process is, sees or may do (seccomp). Its memory is shown to
//! nobody: credentials are there. Threads that are started
//! afterwards have given up the same. A kernel without Landlock or seccomp gives what it has, and
//! that is told.

use std::collections::BTreeMap;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr,
};
use nix::libc;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::failure::{Failure, warn};

/// Calls that change what a process is, what it sees, or what it may do. Any of them fails with
/// `EPERM`.
const CALLS: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
];

/// What may still be removed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Removable<'p> {
    /// The files of a folder, and of those in it.
    Files(&'p Path),
    /// A folder that is empty, and its files.
    Folder(&'p Path),
}

/// Gives up what is not needed any more, but to remove what is `removable`.
pub(super) fn enter(removable: &[Removable<'_>]) -> Result<(), Failure> {
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    give_up_files(removable)?;
    give_up_capabilities()?;
    let folders =
        removable.iter().map(|(Removable::Files(folder) | Removable::Folder(folder))| folder);
    for folder in folders.filter(|folder| !is_writable(folder)) {
        warn(&format!("{}: another user's folder: what is made in it stays", folder.display()));
    }
    give_up_calls()
}

/// Whether this process, with what it has kept, may remove what it made in `folder`.
fn is_writable(folder: &Path) -> bool {
    let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    let flags = rustix::fs::AtFlags::EACCESS;
    rustix::fs::accessat(rustix::fs::CWD, folder, wanted, flags).is_ok()
}

/// All but to listen at low ports. A file in another user's folder is not worth the right to
/// override permissions: what stays of a socket gives way to the next.
fn give_up_capabilities() -> Result<(), Failure> {
    let now = rustix::thread::capabilities(None)?;
    let none = CapabilitySet::empty();
    let kept = now.permitted & CapabilitySet::NET_BIND_SERVICE;
    Ok(set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: none },
    )?)
}

/// All may be read; nothing written, made, removed or run.
fn give_up_files(removable: &[Removable<'_>]) -> Result<(), Failure> {
    let abi = ABI::V4;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let all = AccessFs::from_all(abi);
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut rules = rules
        .handle_access(all)?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new("/")?, read))?
        // Whoever wants to forget something writes it there; descriptors that are open stay so.
        .add_rule(PathBeneath::new(PathFd::new("/dev/null")?, AccessFs::WriteFile))?;
    for one in removable {
        let (Removable::Files(folder) | Removable::Folder(folder)) = one;
        let remove: BitFlags<AccessFs> = AccessFs::RemoveFile.into();
        rules = rules.add_rule(PathBeneath::new(PathFd::new(folder)?, remove))?;
        if let (Removable::Folder(_), Some(around)) = (one, folder.parent()) {
            // Of all in there only what is empty can go.
            let remove: BitFlags<AccessFs> = AccessFs::RemoveDir.into();
            rules = rules.add_rule(PathBeneath::new(PathFd::new(around)?, remove))?;
        }
    }
    let status = rules.restrict_self()?;
    if status.ruleset == landlock::RulesetStatus::NotEnforced {
        tracing::info!("this kernel has no Landlock, so files are as open as to anybody");
    }
    Ok(())
}

/// Namespaces that a process may be born into, flags of clone(2).
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

fn give_up_calls() -> Result<(), Failure> {
    let mut rules: BTreeMap<_, _> = CALLS.iter().map(|call| (*call, vec![])).collect();
    let born = |flag: &libc::c_int| {
        let flag = u64::from(flag.cast_unsigned());
        SeccompRule::new(vec![when(SeccompCmpOp::MaskedEq(flag), flag)?])
    };
    rules.insert(libc::SYS_clone, NAMESPACES.iter().map(born).collect::<Result<_, _>>()?);
    // Whom a socket of files leads to is nobody whom a guest's server asks; its own are there.
    let unix = u64::from(libc::AF_UNIX.cast_unsigned());
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![when(SeccompCmpOp::Eq, unix)?])?]);
    refuse(rules, libc::EPERM)?;
    // Its flags are in memory, where no filter sees them; who is told that there is no such call
    // uses clone(2).
    refuse(BTreeMap::from([(libc::SYS_clone3, vec![])]), libc::ENOSYS)?;
    #[cfg(target_arch = "x86_64")]
    refuse_other_numbers()?;
    Ok(())
}

/// That the first argument of a call, an int, is so.
fn when(is: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, is, value)
}

/// Lets each call that is as one of its rules fail with `errno`.
fn refuse(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    errno: libc::c_int,
) -> Result<(), Failure> {
    let refused = SeccompAction::Errno(errno.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

/// Refuses the numbers by which x32 programs make the same calls: rules do not see those.
#[cfg(target_arch = "x86_64")]
fn refuse_other_numbers() -> Result<(), Failure> {
    const FIRST: u32 = 0x4000_0000; // __X32_SYSCALL_BIT
    let step = |code: u32, if_not: u8, k: u32| seccompiler::sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt: 0,
        jf: if_not,
        k,
    };
    let program = [
        // The call's number is the first word of `struct seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, FIRST),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    Ok(seccompiler::apply_filter(&program)?)
}

/// Whether a child of this process can be born into a user namespace of its own.
fn is_born_elsewhere() -> bool {
    let mut stack = vec![0; 64 * 1024];
    let flags = nix::sched::CloneFlags::CLONE_NEWUSER;
    // SAFETY: a process of its own, whose memory is a copy; it does nothing but end, on a stack
    // that it alone uses. nix has no safe call for that, and a program can't be started here.
    #[allow(unsafe_code, reason = "a child is born only to see whether it is")]
    let born = unsafe { nix::sched::clone(Box::new(|| 0), &mut stack, flags, Some(libc::SIGCHLD)) };
    born.is_ok()
}

/// Arguments of the hidden sub-command: not for people.
#[derive(Debug, clap::Args)]
pub(crate) struct SandboxProbeArgs {
    /// A folder that may be written without a sandbox.
    folder: std::path::PathBuf,
    /// Tries each system call that is refused, with nothing else given up.
    #[arg(long)]
    calls: bool,
}

/// The errno of `call`, made with arguments that it can do nothing with.
fn errno_of(call: libc::c_long) -> i32 {
    // SAFETY: no pointer, descriptor, length, flag or command is -1, so no call of those that are
    // tried does anything, or reads or writes memory (`personality` tells what it is).
    #[allow(unsafe_code, reason = "nothing makes a call by its number safely")]
    let done = unsafe { libc::syscall(call, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) };
    if done == -1 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

/// Gives up the calls alone, with every capability that there is, and makes each, before and after:
/// a line each.
fn probe_calls() -> Result<(), Failure> {
    let calls: Vec<_> = CALLS.iter().copied().chain([libc::SYS_clone3]).collect();
    let before: Vec<_> = calls.iter().map(|call| errno_of(*call)).collect();
    set_no_new_privs(true)?;
    give_up_calls()?;
    for (call, before) in calls.into_iter().zip(before) {
        let refused = if call == libc::SYS_clone3 { libc::ENOSYS } else { libc::EPERM };
        let told = match (errno_of(call) == refused, before == refused) {
            (true, false) => "refused",
            (true, true) => "refused before",
            (false, _) => "made",
        };
        println!("{call}: {told}");
    }
    Ok(())
}

/// Gives up what a guest's server gives up, and tries what is given up: a line each.
pub(crate) fn probe(args: &SandboxProbeArgs) -> std::process::ExitCode {
    let try_all = || -> Result<(), Failure> {
        let removable = args.folder.join("removable");
        enter(&[Removable::Folder(&removable)])?;
        let told = |what: &str, is_done: bool| {
            println!("{what}: {}", if is_done { "done" } else { "refused" });
        };
        told("read a file", std::fs::read("/etc/passwd").is_ok());
        told("write a file", std::fs::write(args.folder.join("new"), "text").is_ok());
        told("change a file", std::fs::write(removable.join("file"), "text").is_ok());
        told("remove a file", std::fs::remove_file(args.folder.join("file")).is_ok());
        told("remove its own", std::fs::remove_file(removable.join("file")).is_ok());
        told("remove its folder", std::fs::remove_dir(&removable).is_ok());
        told("run a program", std::process::Command::new("true").status().is_ok());
        told(
            "change its namespace",
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok(),
        );
        told("have a child in another one", is_born_elsewhere());
        told("open a socket of files", std::os::unix::net::UnixDatagram::unbound().is_ok());
        told("open a raw socket", {
            use socket2::{Domain, Socket, Type};
            Socket::new(Domain::PACKET, Type::RAW, None).is_ok()
        });
        told("listen", std::net::TcpListener::bind("127.0.0.1:0").is_ok());
        let thread =
            std::thread::spawn(move || std::process::Command::new("true").status().is_ok());
        told("run one from a thread", thread.join().unwrap_or(true));
        Ok(())
    };
    super::failure::exit_code(if args.calls { probe_calls() } else { try_all() })
}
