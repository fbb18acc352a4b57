//! What lost frames cost a download: smoltcp sends with neither SACK nor congestion control
//! (`tests/conformance/README.md`). On virtual time, so the figures of README.md repeat.

use core::net::SocketAddr;

use sim::frame::OUTSIDE_V4;
use sim::guest::Guest;
use sim::link::{Link, Weather};
use sim::{Dice, Pattern, Room, World, default_config};

const BYTES: u64 = 8_000_000;
/// Of the connection's buffers, at both ends.
const BUFFER: usize = 512 * 1024;
/// The way there, or back: a millisecond for both.
const DELAY_US: u64 = 500;

/// One way, and how many frames of a thousand get lost there.
fn way(loss: u64, seed: u64) -> Link {
    Link::new(Weather { loss, delay_us: DELAY_US, ..Weather::default() }, Dice::new(seed))
}

/// Moves all frames that are due.
fn relay(world: &mut World<'_>, guest: &mut Guest, (up, down): (&mut Link, &mut Link)) {
    let now = world.now();
    while let Some(frame) = down.receive(now) {
        guest.port.arrived.push_back(frame);
    }
    guest.poll(now);
    while let Some(frame) = guest.port.leaving.pop_front() {
        up.send(now, frame);
    }
    while let Some(frame) = up.receive(now) {
        assert!(world.push(&frame), "the ring has room");
    }
    world.run();
    for frame in core::mem::take(&mut world.raw) {
        down.send(now, frame);
    }
    world.inbox();
    world.peers.log.clear();
}

/// Bytes a second that a guest gets, of a server that always has some, where so many frames of a
/// thousand are lost each way.
fn goodput(loss: u64) -> u64 {
    let room = Room::with(|config| {
        (config.tcp_receive_bytes, config.tcp_send_bytes) = (BUFFER, BUFFER);
    });
    let mut room = room.with_rings(4 << 20);
    let mut world = room.world();
    let mut guest = Guest::new(&default_config().link, 7, world.now());
    let (mut up, mut down) = (way(loss, 1), way(loss, 2));
    let handle = guest.connect(SocketAddr::new(OUTSIDE_V4, 80), BUFFER);
    let (mut said, mut heard) = (Pattern::new(1), Pattern::new(1));
    let began = world.now();
    while heard.len() < BYTES {
        for stream in world.peers.streams.values_mut() {
            let missing = (2 * BUFFER).saturating_sub(stream.to_give.len());
            stream.to_give.extend(said.take(missing));
        }
        relay(&mut world, &mut guest, (&mut up, &mut down));
        let mut bytes = vec![0; BUFFER];
        while let Ok(len @ 1..) = guest.tcp(handle).recv_slice(&mut bytes) {
            heard.check(&bytes[..len]);
        }
        let now = world.now();
        let due = [up.next(), down.next(), guest.next(now), world.wait().0];
        let next = due.into_iter().flatten().min().expect("because it goes on");
        world.clock.move_to(next.max(now.plus_micros(1)));
    }
    heard.len() * 1_000_000 / (world.now().as_micros() - began.as_micros())
}

#[test]
fn a_download_goes_on_where_frames_are_lost_at_what_that_costs() {
    let rates = [0, 1, 10].map(goodput);
    println!("{rates:?} bytes a second");
    for (rate, least) in rates.into_iter().zip([400_000_000, 350_000_000, 150_000_000]) {
        assert!(rate >= least, "{rates:?}");
    }
}
