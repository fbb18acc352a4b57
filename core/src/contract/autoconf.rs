//! What a guest that asks the link for its addresses is told beside them.

use super::ConfigError;
use crate::limits;

/// Answers to DHCP, DHCPv6 and router solicitations: how they are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autoconf {
    /// For how long an address is the guest's without asking again, in seconds. It never gets
    /// another; a guest that renews finds out that the gateway is still there.
    pub lease_s: u32,
    /// The domain that the guest looks for short names in.
    pub search: Option<heapless::String<{ limits::DOMAIN_BYTES_MAX }>>,
}

impl Default for Autoconf {
    fn default() -> Self {
        Self { lease_s: limits::LEASE_S_DEFAULT, search: None }
    }
}

impl Autoconf {
    /// Checks every field against its limits.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let lease = limits::LEASE_S_MIN..=limits::LEASE_S_MAX;
        if !lease.contains(&self.lease_s) {
            let expected = "between 10 and 31536000 seconds";
            return Err(ConfigError::new("interface.autoconf.lease_s", self.lease_s, expected));
        }
        match &self.search {
            Some(search) if !is_domain(search) => {
                let expected =
                    "a domain of labels of letters, digits and hyphens, as guests.example";
                Err(ConfigError::new("interface.autoconf.search", search, expected))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether `name` is one that every resolver takes in its search list (RFC 1123 2.1), and nothing
/// that could end a line or a word of a file that a client writes it into.
fn is_domain(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_and_a_search_domain_are_checked() {
        let with = |lease_s, search: &str| {
            let search = Some(heapless::String::try_from(search).unwrap());
            Autoconf { lease_s, search }.check().map_err(|error| error.field)
        };
        assert_eq!(with(10, "guests.example"), Ok(()));
        assert_eq!(with(31_536_000, "a"), Ok(()));
        for lease_s in [0, 9, 31_536_001, u32::MAX] {
            assert_eq!(with(lease_s, "a"), Err("interface.autoconf.lease_s"));
        }
        let long = "a".repeat(64);
        for search in ["", ".", "a.", ".a", "a b", "a\nb", "a;b", "-a", "a-", "é", long.as_str()] {
            assert_eq!(with(60, search), Err("interface.autoconf.search"), "{search:?}");
        }
    }

    extern crate std;
}
