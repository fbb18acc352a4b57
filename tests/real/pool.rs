//! Networks on a thread that they share: whose network namespace counts.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;

use sim::frame::{OUTSIDE_V4, gateway};
use sim::load::Lean;
use sluicegate_host::adapter::stream::StreamLink;
use sluicegate_host::{DriverPool, NetworkConfig, SmoltcpNetwork};

use crate::namespace::Namespace;
use crate::needs;
use crate::waiting::until;

#[test]
fn sockets_of_a_pool_are_where_it_was_made_and_ports_where_the_network_is_started() {
    if !needs::are_met(&[]) {
        return;
    }
    let namespace = Namespace::new();
    let (pool, listener) = namespace.inside(|| {
        let pool = DriverPool::new(NonZeroUsize::MIN).unwrap();
        (pool, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    });
    let config = NetworkConfig::from_json(
        r#"{"policy": {"default_egress": "allow"}, "ports": [{"host_port": 0, "guest_port": 80}]}"#,
    );
    let mut network = SmoltcpNetwork::try_new(config.unwrap(), 0).unwrap();
    let (mut machine, link) = UnixStream::pair().unwrap();
    network.attach_link(Box::new(StreamLink::connected(link).unwrap())).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    network.try_start_on(&pool, runtime.handle().clone()).unwrap();
    // The gateway's address leads to the loopback of whoever opens the socket.
    let port = listener.local_addr().unwrap().port();
    let syn = Lean::new(SocketAddr::new(gateway(OUTSIDE_V4), port), 1024).syn(1460);
    machine.write_all(&u32::try_from(syn.len()).unwrap().to_be_bytes()).unwrap();
    machine.write_all(&syn).unwrap();
    listener.set_nonblocking(true).unwrap();
    until("the guest's connection is in the pool's namespace", || listener.accept().is_ok());
    TcpStream::connect(network.published_ports()[0].host).unwrap();
    network.shutdown().unwrap();
}
