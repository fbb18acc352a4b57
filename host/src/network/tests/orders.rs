//! Orders to a driver that is held up: who gives one up, and who obeys one.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::pool::asked;
use super::*;

/// A network whose driver waits, in a turn of its link, until it is let go.
pub(super) struct HeldUp {
    // First, so that nothing holds the driver when the network ends.
    go: Sender<()>,
    pub(super) network: SmoltcpNetwork,
    pub(super) control: ControlHandle,
    caller: UnixStream,
    /// Each turn in which the link was called.
    turns: Receiver<()>,
    _runtime: Runtime,
}

impl HeldUp {
    pub(super) fn new() -> Self {
        let ((tell, turns), (go, wait)) = (channel(), channel());
        let (mut network, caller) = asked(move |is_called| {
            if is_called {
                tell.send(()).unwrap();
                // The test may be over.
                let _ = wait.recv();
            }
            false
        });
        let (control, runtime) = (network.control_handle(), runtime());
        network.try_start(runtime.handle().clone()).unwrap();
        Self { go, network, control, caller, turns, _runtime: runtime }
    }

    /// Lets the driver wait from now on.
    pub(super) fn hold(&mut self) {
        self.caller.write_all(b"!").unwrap();
        self.turns.recv().unwrap();
    }

    pub(super) fn let_go(&self) {
        self.go.send(()).unwrap();
    }
}

/// A configuration with a published port that is free now, and that port.
fn publishing() -> (NetworkConfig, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut config = config(Permission::Allow);
    config.ports = vec![format!("{port}:80").parse().unwrap()];
    (config, port)
}

#[test]
fn a_change_that_was_given_up_is_never_applied_and_holds_nothing() {
    let mut held = HeldUp::new();
    let (wanted, port) = publishing();
    held.hold();
    let given_up = held.control.replace_within(Duration::ZERO, wanted.clone(), None);
    assert!(matches!(given_up, Err(Error::Busy)), "{given_up:?}");
    // Its port is free again, though the driver has not moved.
    drop(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
    held.let_go();
    // What was ordered before this has had its turn.
    assert_eq!(held.control.flows().unwrap(), []);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    assert_eq!(held.control.config(), (config(Permission::Allow), 1));
    // And again, with a driver that has time.
    assert_eq!(held.control.replace(wanted.clone(), Some(1)).unwrap(), 2);
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(held.control.config(), (wanted, 2));
    held.network.shutdown().unwrap();
}
