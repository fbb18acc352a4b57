//! What a turn hears at most, of queries that are known and of those that are not.

use core::task::Waker;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::flow::tests::{flows, with_engine};

const NOW: Instant = Instant::ZERO;
/// A header without a question, which is answered by a header.
const NONE: [u8; 12] = [0, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A query for the texts of a name.
fn query() -> Vec<u8> {
    [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\x04test\0", &[0, 16, 0, 1]].concat()
}

/// An answer to it of some 60,000 bytes.
fn long_answer() -> Vec<u8> {
    let mut answer = query();
    (answer[0], answer[1], answer[2], answer[7]) = (0, 0, 0x81, 1);
    answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 1, 0]);
    answer.extend(60_000_u16.to_be_bytes());
    answer.resize(answer.len() + 60_000, 7);
    answer
}

/// A flow of datagrams on which names are asked, in slot `index` of those.
fn datagrams(index: u32) -> FlowId {
    let start = crate::config::NetworkConfig::default().to_core(0, [7; 16]).unwrap().tcp_flows_max;
    FlowId { index: start + index, generation: 1 }
}

/// The stream in slot `index`, and the guest's end of it.
fn stream(flows: &mut Flows, index: u32) -> DuplexStream {
    let (end, guest) = crate::intercept::End::pair(Waker::noop().clone());
    let id = FlowId { index, generation: 1 };
    flows.insert(id, Flow::Names(NameStream::new(id, NOW, Way::Tls(end))));
    flows.enqueue(index);
    guest
}

/// Bytes that the guest has of its stream, without waiting.
fn heard(guest: &mut DuplexStream) -> usize {
    let mut space = vec![0; 64 * 1024];
    let more = || guest.read(&mut space).now_or_never().map(|read| read.unwrap());
    core::iter::from_fn(more).sum()
}

#[test]
fn a_row_of_queries_is_heard_up_to_the_budget_of_a_turn_and_the_rest_is_counted() {
    with_engine(|engine, _| {
        let (mut flows, _poll) = flows();
        let lost = |flows: &Flows| flows.published.names_full.load(Ordering::Relaxed);
        let row = NONE.repeat(1000);
        for turn in 1..=2 {
            flows.hear_names(engine, NOW, (datagrams(0), &row, 12));
            assert_eq!(lost(&flows), turn * (1000 - 256), "turn {turn}");
            flows.serve(engine, NOW);
        }
        // Of answers that are known, by their bytes.
        let asked = [&[0, 0], &query()[2..]].concat();
        flows.names.cache.keep(NOW, &asked, &long_answer());
        let before = lost(&flows);
        let row = query().repeat(100);
        let len = u16::try_from(query().len()).unwrap();
        flows.hear_names(engine, NOW, (datagrams(0), &row, len));
        assert_eq!(lost(&flows) - before, 100 - 18);
    });
}

#[test]
fn queries_that_go_no_further_are_counted_by_why() {
    with_engine(|engine, _| {
        let (mut flows, _poll) = flows();
        let counted = |flows: &Flows| {
            let p = &flows.published;
            [&p.names_too_long, &p.names_busy, &p.names_full].map(|it| it.load(Ordering::Relaxed))
        };
        let refused = |engine: &HostEngine<'_>| engine.counters().name_refusals;
        flows.hear_names(engine, NOW, (datagrams(0), &[7; QUERY_BYTES_MAX + 1], 0));
        assert_eq!(counted(&flows), [1, 0, 0]);
        let row = [7; 2 * QUERY_BYTES_MAX + 2];
        let bytes = u16::try_from(QUERY_BYTES_MAX + 1).unwrap();
        flows.hear_names(engine, NOW, (datagrams(0), &row, bytes));
        assert_eq!(counted(&flows), [3, 0, 0]);
        assert_eq!(refused(engine), [0; 6], "nobody has looked at them");
        // One that says nothing is a query that is none.
        flows.hear_names(engine, NOW, (datagrams(0), &[], 0));
        assert_eq!(refused(engine)[sluicegate_core::NameRefusal::Query as usize], 1);
        flows.names.waiting = WAITING_MAX;
        flows.hear_names(engine, NOW, (datagrams(0), &query(), 0));
        assert_eq!(counted(&flows), [3, 1, 0]);
        assert_eq!(refused(engine)[sluicegate_core::NameRefusal::Unreachable as usize], 1);
        // On a stream.
        let mut guest = stream(&mut flows, 0);
        guest.write_all(&[0xff; 2]).now_or_never().unwrap().unwrap();
        flows.serve(engine, NOW);
        assert_eq!(counted(&flows), [4, 1, 0]);
        assert!(flows.slots[0].is_none(), "it is over");
    });
}

#[test]
fn with_a_stream_too_many_the_oldest_gives_way_and_is_counted() {
    with_engine(|engine, _| {
        let (mut flows, _poll) = flows();
        let full = |flows: &Flows| flows.published.name_streams_full.load(Ordering::Relaxed);
        let count = u32::try_from(STREAMS_MAX).unwrap();
        for index in 0..=count {
            assert_eq!(full(&flows), 0, "{index}");
            flows.accept_names(engine, NOW, FlowId { index, generation: 1 });
        }
        assert_eq!(full(&flows), 1);
        let is_there = |index: u32| flows.slots[index as usize].is_some();
        assert_eq!([0, 1, count].map(is_there), [false, true, true]);
    });
}

#[test]
fn streams_are_heard_up_to_the_budget_of_a_turn_and_take_turns() {
    with_engine(|engine, _| {
        let (mut flows, _poll) = flows();
        let mut guests: [_; 3] = core::array::from_fn(|index| {
            let index = u32::try_from(index).unwrap();
            stream(&mut flows, index)
        });
        let framed = [&[0, 12], &NONE[..]].concat();
        let all = framed.repeat(1024);
        for guest in &mut guests {
            guest.write_all(&all).now_or_never().unwrap().unwrap();
        }
        let mut sums = [0; 3];
        for turn in 1..=12 {
            assert!(flows.is_busy(engine, NOW), "turn {turn}");
            flows.serve(engine, NOW);
            for (sum, guest) in sums.iter_mut().zip(&mut guests) {
                *sum += heard(guest) / framed.len();
            }
            assert_eq!(sums.iter().sum::<usize>(), turn * 256, "{sums:?}");
            let most = sums.into_iter().max().unwrap();
            assert!(most - sums.into_iter().min().unwrap() <= 512, "{sums:?}");
        }
        assert_eq!(sums, [1024; 3]);
        flows.serve(engine, NOW);
        assert!(!flows.is_busy(engine, NOW), "all is said");
    });
}

#[test]
fn an_answer_that_many_wait_for_is_handed_on_up_to_so_many_bytes_a_turn() {
    with_engine(|engine, _| {
        let (mut flows, _poll) = flows();
        let askers: VecDeque<_> = (0..100).map(|index| (datagrams(index), query())).collect();
        flows.names.waiting = askers.len();
        flows.names.due = Some(Due { answer: Some(long_answer()), askers });
        for turn in 1..=33 {
            flows.serve_names(engine, NOW);
            assert_eq!(flows.names.waiting, 100 - 3 * turn);
            assert!(flows.names.is_busy());
        }
        flows.serve_names(engine, NOW);
        assert!(flows.names.waiting == 0 && flows.names.due.is_none() && !flows.names.is_busy());
    });
}
