//! Frames as RFC 6455 has them, and what is none.

use super::*;

/// The parts of `said`, which comes in pieces of `at_most` bytes; data and control frames as texts.
fn read(
    speaker: Speaker,
    said: &[u8],
    at_most: usize,
) -> Result<Vec<(String, Vec<u8>)>, Malformed> {
    let mut frames = Frames::of(speaker);
    let mut all: Vec<(String, Vec<u8>)> = vec![];
    for piece in said.chunks(at_most) {
        let mut piece = Bytes::copy_from_slice(piece);
        while let Some(part) = frames.next(&mut piece)? {
            match part {
                Part::Begin(opcode) => all.push((format!("{opcode:?}"), vec![])),
                Part::Data(bytes) => match all.last_mut() {
                    Some((kind, data)) if kind == "Data" => data.extend(bytes),
                    _ => all.push(("Data".to_owned(), bytes.to_vec())),
                },
                Part::End => all.push(("End".to_owned(), vec![])),
                Part::Control(opcode, bytes) => all.push((format!("{opcode:?}"), bytes.to_vec())),
            }
        }
        assert!(piece.is_empty(), "all that came is taken");
    }
    Ok(all)
}

fn part(kind: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    (kind.to_owned(), bytes.to_vec())
}

#[test]
fn the_examples_of_the_rfc_are_read_as_it_says_wherever_they_are_cut() {
    // RFC 6455 5.7.
    let whole = [part("Text", b""), part("Data", b"Hello"), part("End", b"")];
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    let ping = b"\x89\x05Hello";
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    let pieces = b"\x01\x03Hel\x89\x05Hello\x80\x02lo";
    let apart = [
        part("Text", b""),
        part("Data", b"Hel"),
        part("Ping", b"Hello"),
        part("Data", b"lo"),
        part("End", b""),
    ];
    for at_most in 1..=20 {
        assert_eq!(read(Speaker::Server, b"\x81\x05Hello", at_most).unwrap(), whole);
        assert_eq!(read(Speaker::Guest, masked, at_most).unwrap(), whole);
        assert_eq!(read(Speaker::Server, ping, at_most).unwrap(), [part("Ping", b"Hello")]);
        assert_eq!(read(Speaker::Guest, pong, at_most).unwrap(), [part("Pong", b"Hello")]);
        assert_eq!(read(Speaker::Server, pieces, at_most).unwrap(), apart);
    }
}

#[test]
fn what_is_written_is_read_as_what_it_was_at_every_length() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
        let payload: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let of_length = if len < 126 {
            2
        } else if len < 65_536 {
            4
        } else {
            10
        };
        for (speaker, key, of_key) in
            [(Speaker::Server, None, 0), (Speaker::Guest, Some(*b"\x37\xfa\x21\x3d"), 4)]
        {
            let mut out = BytesMut::from(&b"before"[..]);
            write(&mut out, (Opcode::Binary, true), &payload, key);
            let written = out.strip_prefix(b"before").unwrap();
            assert_eq!(written.len(), of_length + of_key + len, "as short as can be");
            for at_most in [7, 1000, 1 << 20] {
                let read = read(speaker, written, at_most).unwrap();
                let data: Vec<u8> = read.into_iter().flat_map(|(_, bytes)| bytes).collect();
                assert!(data == payload, "{len} bytes of {speaker:?} in pieces of {at_most}");
            }
        }
    }
}

#[test]
fn what_is_no_frame_is_known_by_its_first_bytes() {
    let key = &b"\0\0\0\0"[..];
    for (said, expected) in [
        (&b"\xc1\x80"[..], Malformed::Reserved),
        (b"\xa1\x80", Malformed::Reserved),
        (b"\x91\x80", Malformed::Reserved),
        (b"\x83\x80", Malformed::Unknown),
        (b"\x8b\x80", Malformed::Unknown),
        (b"\x81\x00", Malformed::Mask),
        (b"\x89\xfe", Malformed::Control),
        (b"\x09\x80", Malformed::Control),
        (b"\x80\x80", Malformed::Order),
        (b"\x00\x80", Malformed::Order),
        (b"\x81\xff\x80\0\0\0\0\0\0\0\0\0\0\0", Malformed::Length),
        // Within a message another one, and behind its end more of it.
        (&[b"\x01\x80", key, b"\x81\x80"].concat(), Malformed::Order),
        (&[b"\x01\x80", key, b"\x80\x80", key, b"\x80\x80"].concat(), Malformed::Order),
    ] {
        for at_most in [1, 2, 100] {
            assert_eq!(read(Speaker::Guest, said, at_most), Err(expected), "{said:?}");
        }
    }
    assert_eq!(read(Speaker::Server, b"\x81\x80", 2), Err(Malformed::Mask));
    // The longest there may be is begun as any other.
    let longest = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xffbegins";
    let begun = [part("Binary", b""), part("Data", b"begins")];
    assert_eq!(read(Speaker::Server, longest, 3).unwrap(), begun);
}
