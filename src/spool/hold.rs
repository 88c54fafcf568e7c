//! Why an entry is not delivered for now.

use super::codec::Input;

/// Why an entry is not delivered for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    /// It is delivered.
    #[default]
    No,
    /// An operator holds it back.
    Operator,
    /// It came from another node, which has not yet said that it is ours.
    Arriving {
        /// The number of that node.
        from: u16,
        /// An operator holds it back there.
        held: bool,
    },
    /// It is another node's; it is kept until that node knows so.
    Handed {
        /// The number of that node.
        to: u16,
        /// An operator holds it back.
        held: bool,
    },
}

impl Hold {
    /// Whether an operator holds it back.
    pub fn is_operators(self) -> bool {
        match self {
            Self::No => false,
            Self::Operator => true,
            Self::Arriving { held, .. } | Self::Handed { held, .. } => held,
        }
    }

    /// The same, without the other node.
    pub fn operators(self) -> Self {
        if self.is_operators() { Self::Operator } else { Self::No }
    }

    /// Whether it is this node's to deliver.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::No | Self::Operator)
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let Small([code, node @ ..]) = self.into();
        out.push(code);
        if !self.is_ours() {
            out.extend_from_slice(&node);
        }
    }

    pub(super) fn decode(input: &mut Input<'_>) -> Option<Self> {
        Some(match input.u8()? {
            0 => Self::No,
            1 => Self::Operator,
            2 => Self::Arriving { from: input.u16()?, held: false },
            3 => Self::Arriving { from: input.u16()?, held: true },
            4 => Self::Handed { to: input.u16()?, held: false },
            5 => Self::Handed { to: input.u16()?, held: true },
            _ => return None,
        })
    }
}

/// The same in three octets, for there are millions of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Small([u8; 3]);

impl From<Hold> for Small {
    fn from(hold: Hold) -> Self {
        let (code, node) = match hold {
            Hold::No => (0, 0),
            Hold::Operator => (1, 0),
            Hold::Arriving { from, held: false } => (2, from),
            Hold::Arriving { from, held: true } => (3, from),
            Hold::Handed { to, held: false } => (4, to),
            Hold::Handed { to, held: true } => (5, to),
        };
        let [low, high] = node.to_le_bytes();
        Self([code, low, high])
    }
}

impl From<Small> for Hold {
    fn from(Small([code, low, high]): Small) -> Self {
        let node = u16::from_le_bytes([low, high]);
        match code {
            1 => Self::Operator,
            2 => Self::Arriving { from: node, held: false },
            3 => Self::Arriving { from: node, held: true },
            4 => Self::Handed { to: node, held: false },
            5 => Self::Handed { to: node, held: true },
            _ => Self::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hold_reads_back() {
        for hold in [
            Hold::No,
            Hold::Operator,
            Hold::Arriving { from: 3, held: false },
            Hold::Arriving { from: u16::MAX, held: true },
            Hold::Handed { to: 258, held: false },
            Hold::Handed { to: 3, held: true },
        ] {
            let mut bytes = Vec::new();
            hold.encode(&mut bytes);
            let mut input = Input(&bytes);
            assert_eq!(Hold::decode(&mut input), Some(hold));
            assert!(input.0.is_empty());
            assert_eq!(Hold::from(Small::from(hold)), hold);
        }
        assert_eq!(Hold::decode(&mut Input(&[4, 1])), None);
        assert_eq!(Hold::decode(&mut Input(&[9])), None);
    }
}
