//! The source of a request: who is counted, slowed down and blocked together, by address.
//!
//! Must be the one answer to that question: a cap that counts addresses another way is passed by whoever has many.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// An IPv4 address, also where it is written as an IPv6 one; or the network of 64 bits of an IPv6 address, which is the least
/// that one customer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source(IpAddr);

impl Source {
    /// The source that an address belongs to.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
            v4 => v4,
        })
    }

    /// The network of 48 bits around it, which is the most that one customer is usually given; none for IPv4.
    pub fn site(self) -> Option<Self> {
        match self.0 {
            IpAddr::V6(v6) => Some(Self(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 80))))),
            IpAddr::V4(_) => None,
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn an_ipv4_address_is_itself_however_it_is_written() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_ne!(source("::ffff:192.0.2.1"), source("::ffff:192.0.2.2"));
    }

    #[test]
    fn ipv6_addresses_of_one_network_are_one_source_and_those_of_the_next_are_not() {
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("2001:db8:0:1::1").to_string(), "2001:db8:0:1::/64");
        assert_eq!(source("::ffff:192.0.2.1").to_string(), "192.0.2.1");
    }

    #[test]
    fn networks_of_64_bits_lie_in_a_site_of_48_and_ipv4_addresses_in_none() {
        assert_eq!(source("2001:db8:1:2::1").site(), source("2001:db8:1:ffff::1").site());
        assert!(source("2001:db8:1:2::1").site() != source("2001:db8:2:2::1").site());
        assert_eq!(source("192.0.2.1").site(), None);
    }
}
