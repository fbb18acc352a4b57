//! A firmware that fetches a page, answers one request, and turns the machine off.
//!
//! On its command line: the strings that `sluicegate env` prints, `slot=N`, `fetch=ADDRESS:PORT`,
//! and `answer=PORT`.

#![no_std]
#![no_main]

mod board;
mod net;

use core::net::SocketAddr;

use board::{Card, CommandLine};
use net::{Net, StreamMemory};
use sluicegate_core::FrameRing;
use smoltcp::iface::SocketStorage;

fn main(command_line: CommandLine, card: Card) -> ! {
    let (received, sent) = (net::ring(), net::ring());
    let (from_card, frames) = FrameRing::split(&received);
    let (out, to_card) = FrameRing::split(&sent);
    let (mut memory, mut storage) = (StreamMemory::NEW, [SocketStorage::EMPTY]);
    let task = async {
        let told = command_line.told().ok_or("the gateway's strings are not there")?;
        let slot = command_line.value("slot").filter(|slot| board::is_of_slot(*slot, &told));
        let slot = slot.ok_or("the gateway's strings are not those of slot=N")?;
        defmt::info!("slot {=u16}, mtu {=u16}", slot, told.0.mtu);
        let mut net = Net::new(&told, (frames, out), &mut memory, &mut storage);
        if let Some(page) = command_line.value("fetch") {
            fetch(&mut net, page).await?;
        }
        let Some(port) = command_line.value("answer") else { return Ok(()) };
        answer(&mut net, port).await
    };
    board::run(card, (from_card, to_card), task)
}

async fn fetch(net: &mut Net<'_>, page: SocketAddr) -> Result<(), &'static str> {
    net.connect(page).await?;
    net.send(b"GET / HTTP/1.0\r\n\r\n").await?;
    let (mut room, mut bytes, mut sum) = ([0; 1024], 0_u32, 0_u32);
    while let len @ 1.. = net.receive(&mut room).await {
        bytes += len as u32;
        sum = room[..len].iter().fold(sum, |sum, byte| sum.rotate_left(1) ^ u32::from(*byte));
    }
    net.close().await;
    defmt::info!("fetched {=u32} bytes, sum {=u32}", bytes, sum);
    Ok(())
}

async fn answer(net: &mut Net<'_>, port: u16) -> Result<(), &'static str> {
    defmt::info!("listening on {=u16}", port);
    net.accept(port).await?;
    net.receive(&mut [0; 1024]).await;
    net.send(b"HTTP/1.0 200 OK\r\n\r\nfrom the firmware\n").await?;
    net.close().await;
    defmt::info!("answered");
    Ok(())
}
