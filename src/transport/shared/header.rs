//! What comes before the bytes of a message.

use super::Channel;

/// What a message is matched by, apart from its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub channel: Channel,
    pub tag: i32,
}

/// The header of a message. It begins at a multiple of a ring's unit, so that it comes whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub key: Key,
    /// Bytes that follow.
    pub len: usize,
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = 16;

    /// The header as it travels.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let channel = match self.key.channel {
            Channel::Collective => 0_u32,
            Channel::PointToPoint => 1,
        };
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&(self.len as u64).to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.key.tag.to_ne_bytes());
        bytes[12..].copy_from_slice(&channel.to_ne_bytes());
        bytes
    }

    /// The header that [`Header::to_bytes`] has made.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, channel @ ..] = bytes;
        let channel = if u32::from_ne_bytes(channel) == 0 { Channel::Collective } else { Channel::PointToPoint };
        let len = u64::from_ne_bytes([a, b, c, d, e, f, g, h]) as usize;
        Header { key: Key { channel, tag: i32::from_ne_bytes([i, j, k, l]) }, len }
    }
}
