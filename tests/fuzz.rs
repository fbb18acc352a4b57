//! What `fuzz/` fuzzes of the core, as tests: the seeds, and so many random changes of them, by a
//! fixed seed. (What it fuzzes of the host is run likewise by `host/src/fuzz/tests.rs`.)
//! `SLUICEGATE_FUZZ=n` makes n thousand.

use sim::fuzz;

#[test]
fn frames_and_events_in_any_order_break_no_rule() {
    fuzz::run("engine", fuzz::engine);
}

#[test]
fn a_frame_is_to_the_engine_what_it_is_to_another_reader() {
    fuzz::run("classify", fuzz::classify);
}

#[test]
fn queries_and_answers_of_any_bytes_break_no_rule() {
    fuzz::run("dns", fuzz::dns);
}

#[test]
fn what_is_said_first_means_the_same_however_it_is_cut() {
    fuzz::run("said", fuzz::said);
}

#[test]
fn bytes_that_are_cut_and_joined_are_those_that_came() {
    fuzz::run("offload", fuzz::offload);
}

#[test]
fn pieces_in_any_order_are_what_a_plain_reassembler_says() {
    fuzz::run("fragments", fuzz::fragments);
}

#[test]
fn a_ring_is_a_queue_whatever_its_ends_do() {
    fuzz::run("ring", fuzz::ring);
}
