//! What one way makes of frames, wherever they are cut.

use super::super::way::MADE_BYTES_MAX;
use super::*;

fn exchange(host: &str) -> Arc<Exchange> {
    exchange_with(vault(), host)
}

fn exchange_with(vault: Arc<Vault>, host: &str) -> Arc<Exchange> {
    let interceptor = fuzz::interceptor(vault);
    Arc::new(Exchange::new(interceptor, fuzz::call(host), true).in_the_clear())
}

fn way(host: &str, speaker: Speaker) -> Way {
    Way::new(&exchange(host), speaker)
}

/// What `way` lets pass of `pieces`, and whether all of it.
fn through(mut way: Way, pieces: &[&[u8]]) -> (Listener, Result<(), Stop>) {
    let mut listener = Listener::of(way.speaker);
    for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        while !piece.is_empty() {
            let (passed, taken) = way.push(&mut piece);
            listener.hear(&passed);
            if taken.is_err() {
                return (listener, taken);
            }
        }
    }
    (listener, Ok(()))
}

/// What becomes of the message `text`, in two frames with a ping between them, cut at each place,
/// in two pieces, cut at each place.
fn passed(host: &str, speaker: Speaker, text: &str) -> Vec<(Listener, Result<(), Stop>)> {
    let (mut all, exchange) = (vec![], exchange(host));
    for in_first in 0..=text.len() {
        let (first, second) = text.as_bytes().split_at(in_first);
        let said = [
            frame_of(speaker, (Opcode::Text, false), first),
            frame_of(speaker, (Opcode::Ping, true), b"between"),
            frame_of(speaker, (Opcode::Continuation, true), second),
            frame_of(speaker, (Opcode::Binary, true), b"next"),
        ]
        .concat();
        for cut in 0..said.len() {
            let (one, other) = said.split_at(cut);
            all.push(through(Way::new(&exchange, speaker), &[one, other]));
        }
    }
    all
}

/// Asserts that `expected` comes of `text` whatever cuts it.
fn assert_passes(host: &str, speaker: Speaker, (text, expected): (&str, &str)) {
    let all = passed(host, speaker, text);
    assert!(all.len() > text.len() * text.len(), "{text:?}");
    for (listener, taken) in all {
        taken.unwrap();
        let said = [
            (Opcode::Ping, b"between".to_vec()),
            (Opcode::Text, expected.as_bytes().to_vec()),
            (Opcode::Binary, b"next".to_vec()),
        ];
        assert_eq!(listener.said, said, "{text:?}");
    }
}

#[test]
fn a_placeholder_in_a_message_becomes_its_value_whatever_cuts_it() {
    let to_server = |pair: (&str, &str)| assert_passes("good.test", Speaker::Guest, pair);
    to_server(("a $MSB_KEY b", &format!("a {VALUE} b")));
    to_server(("$MSB_KEY", VALUE));
    to_server((r#"{"k": "\u0024MSB_KEY"}"#, r#"{"k": "sk-live/+ \"quoted\""}"#));
    to_server(("$MSB_", "$MSB_"));
}

#[test]
fn a_value_in_a_message_that_comes_back_is_its_placeholder_whatever_cuts_it() {
    let to_guest = |pair: (&str, &str)| assert_passes("good.test", Speaker::Server, pair);
    to_guest((&format!("a {VALUE} b"), "a $MSB_KEY b"));
    to_guest((&format!("{OTHER}\n"), "$MSB_KEYS\n"));
    to_guest(("sk-live/+ \"quo", "sk-live/+ \"quo"));
    // Whose server may have none is not looked at.
    assert_passes("evil.test", Speaker::Server, (VALUE, VALUE));
}

#[test]
fn what_may_not_pass_ends_it_whatever_cuts_it() {
    for (host, text, env_var, before) in [
        ("good.test", "a $MSB_KEYS b", "KEYS", "a $MSB_"),
        ("evil.test", "a $MSB_KEY b", "KEY", "a $MSB_KE"),
        ("evil.test", r#"{"\u0024MSB_KEY"}"#, "KEY", r#"{"\u0024MSB_KE"#),
        ("evil.test", "$MSB_KEY", "KEY", "$MSB_KE"),
    ] {
        for (listener, taken) in passed(host, Speaker::Guest, text) {
            let Err(Stop::Violation(violation)) = taken else { panic!("{text:?} passes") };
            assert_eq!(violation.env_var.as_deref(), Some(env_var), "{text:?}");
            assert_eq!(violation.place, "WebSocket message");
            assert!(before.as_bytes().starts_with(listener.begun()), "{:?}", listener.begun());
            let pings = listener.said.iter().filter(|(opcode, _)| *opcode == Opcode::Ping).count();
            assert!(pings == listener.said.len() && pings < 2, "the message has no end");
        }
    }
    // What came before it leaves, and in a control frame nothing becomes a value.
    for speaker in [Speaker::Guest, Speaker::Server] {
        let said = [
            frame_of(speaker, (Opcode::Text, true), b"before"),
            frame_of(speaker, (Opcode::Ping, true), b"$MSB_KEY"),
            frame_of(speaker, (Opcode::Close, true), b"\x03\xe8$MSB_KEYS"),
        ]
        .concat();
        let (listener, taken) = through(way("good.test", speaker), &[&said]);
        let passed = [(Opcode::Text, b"before".to_vec()), (Opcode::Ping, b"$MSB_KEY".to_vec())];
        assert_eq!(listener.said[..2], passed);
        assert_eq!(
            (taken.is_err(), listener.said.len() == 2),
            match speaker {
                Speaker::Guest => (true, true),
                Speaker::Server => (false, false),
            }
        );
    }
}

#[test]
fn a_control_frame_that_comes_back_keeps_its_length_and_no_value() {
    let said = frame_of(Speaker::Server, (Opcode::Ping, true), format!("a{VALUE}b").as_bytes());
    let (listener, taken) = through(way("good.test", Speaker::Server), &[&said]);
    taken.unwrap();
    let masked = format!("a{:*<1$}b", "$MSB_KEY", VALUE.len());
    assert_eq!(listener.said, [(Opcode::Ping, masked.into_bytes())]);
}

#[test]
fn what_may_pass_leaves_at_once_and_short_messages_do_not_grow_without_bound() {
    let mut way = way("good.test", Speaker::Guest);
    let mut listener = Listener::of(Speaker::Guest);
    let mut push = |bytes: &[u8]| {
        let (mut bytes, mut longest) = (Bytes::copy_from_slice(bytes), 0);
        while !bytes.is_empty() {
            let (passed, taken) = way.push(&mut bytes);
            taken.unwrap();
            longest = longest.max(passed.len());
            listener.hear(&passed);
        }
        (listener.begun().to_vec(), listener.said.len(), longest)
    };
    let mut said = frame_of(Speaker::Guest, (Opcode::Text, true), b"one $MSB_ two");
    let rest = said.split_off(6 + 9);
    assert_eq!(push(&said).0, b"one ", "what may become a placeholder waits");
    assert_eq!(push(&rest[..1]).0, b"one $MSB_ ");
    assert_eq!(push(&rest[1..]).1, 1);
    let short = frame_of(Speaker::Guest, (Opcode::Text, true), b"$MSB_KEY");
    let (_, messages, longest) = push(&short.repeat(16 * 1024));
    assert_eq!(messages, 1 + 16 * 1024);
    assert!(longest < MADE_BYTES_MAX + 100, "{longest} bytes at once");
}

#[test]
fn a_key_is_fresh_for_each_frame() {
    let mut exchange = Exchange::new(fuzz::interceptor(vault()), fuzz::call("good.test"), true);
    let keys: std::collections::HashSet<_> =
        (0..8).map(|_| (exchange.fresh_key)().unwrap()).collect();
    assert!(keys.len() > 4, "{keys:?}");
    exchange.fresh_key = || Ok(*b"\x37\xfa\x21\x3d");
    let mut way = Way::new(&Arc::new(exchange), Speaker::Guest);
    let said = frame_of(Speaker::Guest, TEXT, b"Hello");
    let (passed, taken) = way.push(&mut Bytes::from(said));
    taken.unwrap();
    assert_eq!(&*passed, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
}

#[test]
fn where_bodies_have_no_value_messages_have_none_either() {
    let way = Way::new(&exchange_with(vault_with(false), "good.test"), Speaker::Guest);
    let said = frame_of(Speaker::Guest, TEXT, b"$MSB_KEY");
    let (listener, taken) = through(way, &[&said]);
    taken.unwrap();
    assert_eq!(listener.said, [(Opcode::Text, b"$MSB_KEY".to_vec())]);
}

#[test]
fn what_waits_is_judged_where_nothing_more_comes() {
    let begun = frame_of(Speaker::Guest, (Opcode::Text, false), b"a $MSB_");
    let mut way = way("good.test", Speaker::Guest);
    assert_eq!(&*way.push(&mut Bytes::from(begun)).0, b"\x01\x82\0\0\0\0a ");
    let (rest, finished) = way.finish();
    finished.unwrap();
    assert_eq!(&*rest, b"\x00\x85\0\0\0\0$MSB_", "a message that has no end gets none");
    // `KEY`'s might have become `KEYS`'s, which this server may have.
    for is_final in [false, true] {
        let said = frame_of(Speaker::Guest, (Opcode::Text, is_final), b"$MSB_KEY");
        let mut way = Way::new(&exchange("other.test"), Speaker::Guest);
        let (passed, taken) = way.push(&mut Bytes::from(said));
        assert!(passed.is_empty(), "{passed:?}");
        let stopped = if is_final { taken } else { taken.and_then(|()| way.finish().1) };
        let Err(Stop::Violation(violation)) = stopped else { panic!("it passes") };
        assert_eq!(violation.env_var.as_deref(), Some("KEY"));
    }
}

#[test]
fn a_control_frame_stays_where_it_is_within_a_message() {
    let said = [
        frame_of(Speaker::Server, (Opcode::Text, false), b"one\n"),
        frame_of(Speaker::Server, (Opcode::Ping, true), b""),
        frame_of(Speaker::Server, (Opcode::Continuation, true), b"two"),
    ]
    .concat();
    let mut way = way("good.test", Speaker::Server);
    let (passed, taken) = way.push(&mut Bytes::from(said.clone()));
    taken.unwrap();
    assert_eq!(passed, said);
}
