//! The engine by itself: memory and rings that are lent to it, a frame of a guest, and the loop
//! that asks what is to be done. `cargo run -p sluicegate-core --example gateway`
//!
//! Memory is leaked here as the program has one engine; without a heap it is arrays of the lengths
//! that `MemoryLen::of` says. A host does each `Action` on sockets of its own and tells what became
//! of it by `Engine::handle`: `host/src/driver.rs` is one.

use core::error::Error;
use std::sync::Arc;

use sluicegate_core::addr::{Addresses, Overrides};
use sluicegate_core::{
    Action, Config, Engine, FragmentSet, FrameRing, Instant, Link, Memory, MemoryLen, Offload,
    Permission, Policy, SlotMemory, limits,
};

fn main() -> Result<(), Box<dyn Error>> {
    let addresses = Addresses::of_slot(0, &Overrides::default())?;
    let config = config(&addresses);
    let ring = || FrameRing::split(Arc::new(FrameRing::new(vec![0; 512 * 1024])));
    let ((mut from_guest, engine_in), (engine_out, mut to_guest)) = (ring(), ring());
    let now = Instant::ZERO;
    let mut engine =
        Engine::new(&config, memory(&MemoryLen::of(&config)), engine_in, engine_out, now)?;

    // The guest asks who has the gateway's address.
    let question = question(&addresses);
    if !from_guest.push(&question, Offload::NONE) {
        return Err("the ring is full".into());
    }
    // What is to be done for the guest, until nothing is.
    loop {
        let action = engine.poll(now);
        if matches!(action, Action::Wait { .. }) {
            break;
        }
        println!("the host would do: {action:?}");
    }
    let answer = to_guest.read().ok_or("there is no answer")?;
    let sender = to_guest.bytes(&answer).get(22..28).ok_or("the answer is short")?;
    println!("{} is at {sender:02x?}", addresses.gateway_ipv4);
    if sender != addresses.gateway_mac {
        return Err("that is not the gateway".into());
    }
    to_guest.release();
    Ok(())
}

/// An engine that lets everything out, for a few flows.
fn config(addresses: &Addresses) -> Config {
    Config {
        link: Link {
            guest_mac: addresses.guest_mac,
            gateway_mac: addresses.gateway_mac,
            guest_ipv4: addresses.guest_ipv4,
            gateway_ipv4: addresses.gateway_ipv4,
            guest_ipv6: addresses.guest_ipv6,
            gateway_ipv6: addresses.gateway_ipv6,
            mtu: addresses.mtu,
            receive_frame_bytes: limits::RECEIVE_FRAME_BYTES_DEFAULT,
        },
        tcp_flows_max: 16,
        udp_flows_max: 16,
        icmp_flows_max: 8,
        inbound_udp_flows_max: 16,
        inbound_tcp_flows_max: u32::MAX,
        tcp_receive_bytes: 64 * 1024,
        tcp_send_bytes: 64 * 1024,
        fragment_sets: 4,
        policy: Policy::new(Permission::Allow, Permission::Allow),
        strict: true,
        deny_page: None,
        intercepted_ports: Default::default(),
        relays_http: false,
        refuses_quic: false,
        keeps_names: false,
        rebind_protection: true,
        // Of a host that reaches the Internet they are all that are on its interfaces: what is not
        // here is as public as any other.
        own_addresses: Default::default(),
        nat64_prefixes: Default::default(),
        from_guest_rate: None,
        to_guest_rate: None,
        autoconf: None,
        // Of a host it is random: it keys hashes and sequence numbers.
        seed: [7; 16],
    }
}

fn memory(len: &MemoryLen) -> Memory<'static> {
    Memory {
        flows: slots(len.flows),
        flow_names: texts(len.flow_names),
        index: vec![0; len.index].leak(),
        timers: slots(len.flows),
        tcp: slots(len.tcp),
        sockets: Box::leak(Box::new_uninit_slice(len.sockets)),
        datagrams: slots(len.datagrams),
        buffers: vec![0; len.buffers].leak(),
        fragments: vec![FragmentSet::FREE; len.fragments].leak(),
        fragment_bytes: vec![0; len.fragment_bytes].leak(),
        names: slots(len.names),
        name_texts: texts(len.name_texts),
        name_buckets: slots(len.name_buckets),
        scratch: vec![0; len.scratch].leak(),
    }
}

fn slots<T>(pages: usize) -> SlotMemory<'static, T> {
    let places: Vec<_> = core::iter::repeat_with(|| None).take(pages).collect();
    SlotMemory { pages: Box::leak(Box::new_uninit_slice(pages)), places: places.leak() }
}

fn texts(count: usize) -> &'static mut [[u8; limits::DOMAIN_BYTES_MAX]] {
    vec![[0; limits::DOMAIN_BYTES_MAX]; count].leak()
}

/// An ARP request (RFC 826) of the guest for the gateway.
fn question(addresses: &Addresses) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(addresses.guest_mac);
    // ARP; Ethernet, IPv4, their lengths, request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(addresses.guest_mac);
    frame.extend(addresses.guest_ipv4.octets());
    frame.extend([0; 6]);
    frame.extend(addresses.gateway_ipv4.octets());
    frame
}

#[test]
fn the_gateway_answers() {
    main().unwrap();
}
