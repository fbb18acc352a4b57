//! What is read of messages, well-formed and not.

#![allow(clippy::indexing_slicing, reason = "a test that can't go on has failed")]

extern crate std;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

fn read(message: &[u8], at: usize) -> Option<(std::string::String, usize)> {
    name(message, at).map(|(name, end)| (name.as_str().into(), end))
}

#[test]
fn a_name_is_read_in_lower_case_through_pointers_that_lead_back() {
    let message = b"\x01A\x02Bc\x00\x03www\xc0\x00\xc0\x06";
    assert_eq!(read(message, 0), Some(("a.bc".into(), 6)));
    assert_eq!(read(message, 6), Some(("www.a.bc".into(), 12)));
    assert_eq!(read(message, 12), Some(("www.a.bc".into(), 14)));
    assert_eq!(read(b"\x00", 0), Some(("".into(), 1)));
    // What looks like a dot is none.
    assert_eq!(read(b"\x03a.b\x01 \x00", 0), Some(("a\x7fb.\x7f".into(), 7)));
}

#[test]
fn a_name_without_an_end_is_none() {
    for message in [
        &b"\xc0\x00"[..],
        b"\x01a\xc0\x00",
        b"\x01a\xc0\x02",
        b"\xc0\x02\x00",
        b"\x01a",
        b"\x02a",
        b"\xc0",
        b"\x40a\x00",
        b"",
    ] {
        assert_eq!(read(message, 0), None, "{message:?}");
    }
    let long = |labels: usize| [[1, b'a'].repeat(labels), vec![0]].concat();
    assert_eq!(read(&long(127), 0).map(|(name, _)| name.len()), Some(253));
    assert_eq!(read(&long(128), 0), None);
    // Each pointer leads to the one before.
    let mut chain = vec![0];
    for hop in 0..=DNS_POINTERS_MAX {
        let before = if hop == 0 { 0 } else { 2 * hop - 1 };
        chain.extend([0xc0, u8::try_from(before).unwrap()]);
    }
    let end = chain.len();
    assert_eq!(read(&chain, end - 2), None);
    assert_eq!(read(&chain, end - 4), Some(("".into(), end - 2)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_an_end(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        counts in proptest::array::uniform4(0_u8..4),
    ) {
        for (at, count) in [5, 7, 9, 11].into_iter().zip(counts) {
            if let Some(byte) = bytes.get_mut(at) {
                (*byte, bytes[at - 1]) = (count, 0);
            }
        }
        let mut out = [0; 2000];
        if let Ok(query) = query(&bytes) {
            let named = (&query, bytes.as_slice());
            let asked = upstream(named, &mut out);
            prop_assert!((HEADER_BYTES + 5..=crate::limits::DNS_QUERY_BYTES_MAX).contains(&asked));
            let again = super::query(&out[..asked]).map(|again| (again.name, again.kind));
            prop_assert_eq!(again, Ok((query.name.clone(), query.kind)));
            prop_assert!(error(named, 3, Some(Extended::DENIED), &mut out) > 0);
        }
        let mut records = 0;
        let walked = walk(&bytes, |record| {
            records += 1;
            let _ = addresses_of(&bytes, record, |_| ());
        });
        prop_assert!(records <= 9);
        if walked.is_some() {
            prop_assert!(resolved(&bytes, &Name::new(), |_, _| ()).is_some());
        }
        let (before, seconds) = (bytes.clone(), lifetime_seconds(&bytes));
        age(&mut bytes, 1);
        prop_assert_eq!(bytes.len(), before.len());
        if seconds > 0 && seconds < u32::MAX {
            prop_assert_eq!(lifetime_seconds(&bytes), seconds - 1);
        }
    }
}

#[test]
fn an_answer_is_one_to_its_own_question_and_number() {
    let query = b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
    let mut answer: Vec<u8> = query.to_vec();
    assert!(!is_answer_to(query, &answer), "it is the question");
    answer[2] |= 0x80;
    answer[13] = b'A';
    assert!(is_answer_to(query, &answer));
    for at in [0, 1, 5, 13, 16, 18] {
        let mut other = answer.clone();
        other[at] ^= 3;
        assert!(!is_answer_to(query, &other), "{at}");
    }
    for len in 0..answer.len() {
        assert!(!is_answer_to(query, &answer[..len]), "{len}");
    }
}
