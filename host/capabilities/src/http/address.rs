//! Which addresses a guest may never reach. Pure, and the whole list in one place.
//!
//! Source: the IANA special-purpose address registries (RFC 6890 and its updates), and the ways IPv6 wraps IPv4
//! addresses. Must never answer "public" for what it does not know to be: IPv6 outside 2000::/3 is refused whole.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::error::CapabilitiesError;

/// IPv4 networks that are not the public internet, with why.
const IPV4_PROHIBITED: &[([u8; 4], u8, &str)] = &[
    ([0, 0, 0, 0], 8, "this network"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "carrier-grade NAT"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local, cloud metadata"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "protocol assignments"),
    ([192, 0, 2, 0], 24, "documentation"),
    ([192, 31, 196, 0], 24, "AS112"),
    ([192, 52, 193, 0], 24, "AMT"),
    ([192, 88, 99, 0], 24, "6to4 relay"),
    ([192, 168, 0, 0], 16, "private"),
    ([192, 175, 48, 0], 24, "AS112"),
    ([198, 18, 0, 0], 15, "benchmarking"),
    ([198, 51, 100, 0], 24, "documentation"),
    ([203, 0, 113, 0], 24, "documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved, broadcast"),
];

/// IPv6 networks inside 2000::/3 that are not the public internet, with why. Everything outside 2000::/3 is refused.
const IPV6_PROHIBITED: &[([u16; 8], u8, &str)] = &[
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "protocol assignments, Teredo, benchmarking, ORCHID"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    ([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, "AS112"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation"),
];

/// The networks outside 2000::/3 that deserve a name in the refusal.
const IPV6_NAMED: &[([u16; 8], u8, &str)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "IPv4-mapped"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible"),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "NAT64"),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local NAT64"),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local, cloud metadata"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// Why a guest may not reach an address; none when it may.
pub fn prohibited(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => prohibited_v4(address),
        IpAddr::V6(address) => prohibited_v6(address),
    }
}

fn prohibited_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = u128::from(address.to_bits());
    IPV4_PROHIBITED
        .iter()
        .find(|(network, prefix, _)| same_network(bits, u128::from(Ipv4Addr::from(*network).to_bits()), *prefix, 32))
        .map(|(_, _, why)| *why)
}

fn prohibited_v6(address: Ipv6Addr) -> Option<&'static str> {
    let bits = address.to_bits();
    let inside = |list: &[([u16; 8], u8, &'static str)]| {
        list.iter()
            .find(|(network, prefix, _)| same_network(bits, Ipv6Addr::from(*network).to_bits(), *prefix, 128))
            .map(|(_, _, why)| *why)
    };
    if bits >> 125 != 1 {
        return Some(inside(IPV6_NAMED).unwrap_or("outside the public IPv6 space"));
    }
    inside(IPV6_PROHIBITED)
}

fn same_network(address: u128, network: u128, prefix: u8, width: u8) -> bool {
    let shift = u32::from(width.saturating_sub(prefix));
    address.checked_shr(shift).unwrap_or(0) == network.checked_shr(shift).unwrap_or(0)
}

/// An exception an operator made: a network, or one address, on all ports or on one.
///
/// Written `10.0.0.0/8`, `127.0.0.1`, `127.0.0.1:8080`, `[::1]:8080`, `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    network: IpAddr,
    prefix: u8,
    port: Option<u16>,
}

impl AddressRange {
    /// Whether the address is in it.
    pub fn contains(&self, address: SocketAddr) -> bool {
        if self.port.is_some_and(|port| port != address.port()) {
            return false;
        }
        match (self.network, address.ip()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                same_network(u128::from(address.to_bits()), u128::from(network.to_bits()), self.prefix, 32)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                same_network(address.to_bits(), network.to_bits(), self.prefix, 128)
            }
            _ => false,
        }
    }

    fn whole(network: IpAddr, port: Option<u16>) -> Self {
        Self { network, prefix: width(network), port }
    }
}

impl FromStr for AddressRange {
    type Err = CapabilitiesError;
    fn from_str(text: &str) -> Result<Self, CapabilitiesError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::whole(address.ip(), Some(address.port())));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::whole(address, None));
        }
        let parsed = text.split_once('/').and_then(|(network, prefix)| {
            let network = network.parse::<IpAddr>().ok()?;
            let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= width(network))?;
            Some(Self { network, prefix, port: None })
        });
        parsed.ok_or_else(|| CapabilitiesError::AddressRange(text.chars().take(80).collect()))
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.network, port)),
            None => write!(f, "{}/{}", self.network, self.prefix),
        }
    }
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_special_network_is_refused_at_both_ends() {
        let refused = [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.169.254",
            "169.254.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.170",
            "192.0.2.1",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "192.175.48.1",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "::8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "64:ff9b:1:ffff::1",
            "100::1",
            "2001::1",
            "2001:0:53aa:64c::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2001:db8:ffff::1",
            "2002::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "2620:4f:8000::1",
            "3fff::1",
            "3fff:fff:ffff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "feff::1",
            "ff00::1",
            "ff02::1",
            "ffff::1",
        ];
        for address in refused {
            assert!(prohibited(address.parse().unwrap()).is_some(), "{address} must be refused");
        }
    }

    #[test]
    fn neighbours_of_special_networks_are_public() {
        let public = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "8.8.8.8",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
            "2003::1",
            "3ffe::1",
        ];
        for address in public {
            assert_eq!(prohibited(address.parse().unwrap()), None, "{address} must be public");
        }
    }

    #[test]
    fn an_exception_covers_what_it_says_and_no_more() {
        let one: AddressRange = "127.0.0.1:8080".parse().unwrap();
        assert!(one.contains("127.0.0.1:8080".parse().unwrap()));
        assert!(!one.contains("127.0.0.1:8081".parse().unwrap()));
        assert!(!one.contains("127.0.0.2:8080".parse().unwrap()));
        let net: AddressRange = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.255.1:1".parse().unwrap()));
        assert!(!net.contains("10.2.0.1:1".parse().unwrap()));
        assert!(!net.contains("[::ffff:10.1.0.1]:1".parse().unwrap()));
        let all: AddressRange = "::/0".parse().unwrap();
        assert!(all.contains("[fe80::1]:1".parse().unwrap()));
        assert_eq!("[::1]:80".parse::<AddressRange>().unwrap().to_string(), "[::1]:80");
        for bad in ["", "localhost", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8:80", "::/129"] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_wraps_an_ipv4_address_is_refused(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for wrapped in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, high, low, 0, 0, 0),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !high, !low),
            ] {
                prop_assert!(prohibited(IpAddr::V6(wrapped)).is_some(), "{}", wrapped);
            }
        }

        #[test]
        fn the_table_agrees_with_the_standard_library(bits in any::<u32>()) {
            let address = Ipv4Addr::from_bits(bits);
            let special = address.is_private() || address.is_loopback() || address.is_link_local()
                || address.is_multicast() || address.is_broadcast() || address.is_documentation() || address.is_unspecified();
            if special {
                prop_assert!(prohibited(IpAddr::V4(address)).is_some());
            }
        }
    }
}
