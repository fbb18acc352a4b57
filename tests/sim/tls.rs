//! ClientHellos as clients send them, and as none does (RFC 8446 4.1.2).

/// The extension `kind` with `data`.
fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &prefixed(data)].concat()
}

/// `data` behind its length of two bytes.
fn prefixed(data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).expect("because a test's data is short");
    [&len.to_be_bytes()[..], data].concat()
}

/// The content of a server name extension (RFC 6066 3).
#[must_use]
pub fn server_name(name: &str) -> Vec<u8> {
    prefixed(&[&[0], &prefixed(name.as_bytes())[..]].concat())
}

/// The handshake message of a hello with `extensions`.
fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend(prefixed(&[0x13, 0x01, 0x13, 0x02, 0xc0, 0x2f]));
    body.extend([1, 0]);
    body.extend(prefixed(extensions));
    let len = u32::try_from(body.len()).expect("because a test's hello is short").to_be_bytes();
    [&[1], &len[1..], &body].concat()
}

/// What every hello here has beside the name.
fn others() -> Vec<u8> {
    [
        extension(43, &[4, 3, 4, 3, 3]),
        extension(10, &[0, 4, 0x11, 0xec, 0, 0x1d]),
        extension(16, &[0, 12, 2, b'h', b'2', 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1']),
    ]
    .concat()
}

/// `message` in records of at most `bytes` bytes.
#[must_use]
pub fn in_records(message: &[u8], bytes: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1], &prefixed(part)[..]].concat();
    message.chunks(bytes.min(16_384)).flat_map(record).collect()
}

/// A hello for `name`, in one record.
#[must_use]
pub fn hello(name: &str) -> Vec<u8> {
    in_records(&long_hello(name, 0), usize::MAX)
}

/// The message of a hello for `name` with `padding` bytes of a key share.
#[must_use]
pub fn long_hello(name: &str, padding: usize) -> Vec<u8> {
    let mut extensions = others();
    // Shares of 16 KiB at most, so that lengths fit.
    for share in vec![5; padding].chunks(16_000) {
        extensions.extend(extension(51, share));
    }
    extensions.extend(extension(0, &server_name(name)));
    if extensions.len() > usize::from(u16::MAX) {
        // Longer than can be said: the message says so, and nothing fits.
        extensions.truncate(usize::from(u16::MAX));
        let mut message = message(&extensions);
        message[1] = 2;
        message.resize(4 + (2 << 16), 0);
        return message;
    }
    message(&extensions)
}

/// A hello that says no name.
#[must_use]
pub fn hello_without_name() -> Vec<u8> {
    in_records(&message(&others()), usize::MAX)
}

/// A hello for `good.test` with one more extension.
#[must_use]
pub fn with_extension(kind: u16, data: &[u8]) -> Vec<u8> {
    let name = extension(0, &server_name("good.test"));
    in_records(&message(&[others(), name, extension(kind, data)].concat()), usize::MAX)
}

/// A hello for `good.test` whose extensions go on behind its end.
#[must_use]
pub fn lying() -> Vec<u8> {
    let mut message = long_hello("good.test", 0);
    let len = message.len() - 20 - 4;
    message[3] = u8::try_from(len & 0xff).expect("because it is masked");
    in_records(&message, usize::MAX)
}
