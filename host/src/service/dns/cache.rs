//! Answers that were given before, for as long as they are good.
//!
//! Owns how long that is and how many there are; must not know who asks. An answer is found by the
//! query that went upstream, whatever the case of its letters: what else the query says (DNSSEC,
//! EDNS, recursion) makes it another. RFC 1035 7.4, RFC 2308 5, RFC 4343 3.

use std::collections::{HashMap, VecDeque};

use sluicegate_core::{Instant, age, lifetime_seconds};

const ENTRIES_MAX: usize = 4096;
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// No answer is good for longer (RFC 8767 4 has a week at most; people expect less).
const SECONDS_MAX: u32 = 24 * 3600;
/// What an entry takes beside its bytes, about.
const ENTRY_BYTES: usize = 128;
const HEADER_BYTES: usize = 12;

struct Entry {
    answer: Vec<u8>,
    kept: Instant,
    until: Instant,
    /// Which of the queue's entries is about it.
    number: u64,
}

/// The answers of one network.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<Vec<u8>, Entry>,
    /// The keys by age; of a key that was kept again, the last counts.
    by_age: VecDeque<(Vec<u8>, u64)>,
    number: u64,
    bytes: usize,
}

impl Cache {
    /// The answer to `query`, as it is at `now`.
    pub(crate) fn answer(&self, now: Instant, query: &[u8]) -> Option<Vec<u8>> {
        let entry = self.entries.get(&key(query)).filter(|entry| entry.until > now)?;
        let seconds = (now.as_millis() - entry.kept.as_millis()) / 1000;
        let mut answer = entry.answer.clone();
        age(&mut answer, u32::try_from(seconds).unwrap_or(u32::MAX));
        Some(answer)
    }

    /// Keeps `answer` to `query`, if it may be.
    pub(crate) fn keep(&mut self, now: Instant, query: &[u8], answer: &[u8]) {
        let seconds = lifetime_seconds(answer).min(SECONDS_MAX);
        if seconds == 0 {
            return;
        }
        let key = key(query);
        self.number += 1;
        let entry = Entry {
            answer: answer.to_vec(),
            kept: now,
            until: now.plus_millis(u64::from(seconds) * 1000),
            number: self.number,
        };
        self.bytes += weight(&key, &entry);
        self.by_age.push_back((key.clone(), self.number));
        if let Some(old) = self.entries.insert(key.clone(), entry) {
            self.bytes -= weight(&key, &old);
        }
        while self.entries.len() > ENTRIES_MAX
            || self.bytes > BYTES_MAX
            || self.by_age.len() > 2 * ENTRIES_MAX
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((key, number)) = self.by_age.pop_front() else { return };
        if self.entries.get(&key).is_some_and(|entry| entry.number == number)
            && let Some(old) = self.entries.remove(&key)
        {
            self.bytes -= weight(&key, &old);
        }
    }
}

fn weight(key: &[u8], entry: &Entry) -> usize {
    2 * key.len() + entry.answer.len() + ENTRY_BYTES
}

/// `query` with its name in lower case. Nothing else is text, so only the labels are changed.
fn key(query: &[u8]) -> Vec<u8> {
    let mut key = query.to_vec();
    let mut at = HEADER_BYTES;
    while let Some(&len @ 1..) = key.get(at) {
        let label = at + 1..at + 1 + usize::from(len);
        key.get_mut(label.clone()).unwrap_or(&mut []).make_ascii_lowercase();
        at = label.end;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `name` of type `kind`.
    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    /// The answer to `query` with one record of four bytes, which is good for `ttl` seconds.
    fn answer(query: &[u8], ttl: u8) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] = 0x81;
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 1, 2, 3, 4]);
        answer
    }

    /// The name error for `query`, whose zone says that this is good for `ttl` seconds.
    fn name_error(query: &[u8], ttl: u8, minimum: u8) -> Vec<u8> {
        let mut answer = query.to_vec();
        (answer[2], answer[3], answer[9]) = (0x81, 3, 1);
        answer.extend([0, 0, 6, 0, 1, 0, 0, 0, ttl, 0, 22, 0, 0]);
        answer.extend([0; 16]);
        answer.extend([0, 0, 0, minimum]);
        answer
    }

    fn second(second: u64) -> Instant {
        Instant::from_millis(second * 1000)
    }

    #[test]
    fn an_answer_is_good_until_its_ttl_is_up_and_counts_it_down() {
        let mut cache = Cache::default();
        let asked = query("a.test", 1);
        cache.keep(second(10), &asked, &answer(&asked, 5));
        assert_eq!(cache.answer(second(10), &asked), Some(answer(&asked, 5)));
        assert_eq!(cache.answer(second(13), &query("A.tEST", 1)), Some(answer(&asked, 2)));
        assert_eq!(cache.answer(second(15), &asked), None);
    }

    #[test]
    fn another_type_or_another_flag_is_another_question() {
        let mut cache = Cache::default();
        // 65 and 97 are the same letter in two cases.
        let asked = query("a.test", 65);
        cache.keep(second(0), &asked, &answer(&asked, 5));
        assert_eq!(cache.answer(second(0), &query("a.test", 97)), None);
        let mut checked = asked.clone();
        checked[3] |= 0x10;
        assert_eq!(cache.answer(second(0), &checked), None);
    }

    #[test]
    fn nothing_is_kept_as_long_as_its_soa_says_and_failures_not_at_all() {
        let mut cache = Cache::default();
        let asked = query("a.test", 1);
        for (ttl, minimum, until) in [(9, 3, 3), (3, 9, 3)] {
            cache.keep(second(0), &asked, &name_error(&asked, ttl, minimum));
            assert!(cache.answer(second(until - 1), &asked).is_some());
            assert_eq!(cache.answer(second(until), &asked), None);
        }
        let asked = query("b.test", 1);
        let mut truncated = answer(&asked, 9);
        truncated[2] |= 2;
        let mut failed = answer(&asked, 9);
        failed[3] = 2;
        let mut bare = asked.clone();
        bare[2] = 0x81;
        for unfit in [truncated, failed, bare, answer(&asked, 0), vec![], vec![0xff; 12]] {
            cache.keep(second(0), &asked, &unfit);
            assert_eq!(cache.answer(second(0), &asked), None, "{unfit:?}");
        }
    }

    #[test]
    fn it_never_has_more_than_its_bounds() {
        let mut cache = Cache::default();
        for number in 0..3 * ENTRIES_MAX {
            let asked = query(&format!("{}.test", number % (ENTRIES_MAX + 7)), 1);
            cache.keep(second(0), &asked, &answer(&asked, 9));
            assert!(cache.entries.len() <= ENTRIES_MAX && cache.by_age.len() <= 2 * ENTRIES_MAX);
        }
        for number in 0..200 {
            let asked = query(&format!("long-{number}.test"), 16);
            let mut long = answer(&asked, 9);
            let at = long.len() - 6;
            long[at..at + 2].copy_from_slice(&60_000_u16.to_be_bytes());
            long.resize(long.len() + 60_000 - 4, 7);
            cache.keep(second(0), &asked, &long);
            assert!(cache.answer(second(0), &asked).is_some());
        }
        let bytes: usize = cache.entries.iter().map(|(key, entry)| weight(key, entry)).sum();
        assert!(bytes == cache.bytes && bytes <= BYTES_MAX, "{bytes} {}", cache.bytes);
    }
}
