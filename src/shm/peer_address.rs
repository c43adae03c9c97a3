//! How a request head says where its client is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const FAMILY_NONE: u8 = 0;
const FAMILY_V4: u8 = 4;
const FAMILY_V6: u8 = 6;

/// A client's address as it is encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerAddress {
    pub(super) family: u8,
    pub(super) port: u16,
    /// In network order; an IPv4 address takes the first four.
    pub(super) bytes: [u8; 16],
}

impl From<Option<SocketAddr>> for PeerAddress {
    /// `None`: the client is on a Unix socket.
    fn from(peer: Option<SocketAddr>) -> PeerAddress {
        let mut bytes = [0; 16];
        let (family, port) = match peer {
            None => (FAMILY_NONE, 0),
            Some(SocketAddr::V4(v4)) => {
                bytes[..4].copy_from_slice(&v4.ip().octets());
                (FAMILY_V4, v4.port())
            }
            Some(SocketAddr::V6(v6)) => {
                bytes = v6.ip().octets();
                (FAMILY_V6, v6.port())
            }
        };
        PeerAddress {
            family,
            port,
            bytes,
        }
    }
}

impl PeerAddress {
    /// The address; the outer `None` for a family that there is not.
    pub(super) fn decoded(&self) -> Option<Option<SocketAddr>> {
        let b = self.bytes;
        let ip = match self.family {
            FAMILY_NONE => return Some(None),
            FAMILY_V4 => IpAddr::V4(Ipv4Addr::new(b[0], b[1], b[2], b[3])),
            FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(b)),
            _ => return None,
        };
        Some(Some(SocketAddr::new(ip, self.port)))
    }
}
