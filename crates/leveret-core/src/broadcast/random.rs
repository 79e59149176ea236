//! The random numbers of a write: the same on every replica, since they follow from what is logged.
//!
//! The sequence is part of what replicas of different versions must agree on: it never changes.

/// A sequence of random numbers (SplitMix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Random {
    /// The sequence of a statement of the write at `seq`.
    pub fn new(seed: u64, seq: u64, statement: usize) -> Random {
        let place = mix(seq.wrapping_mul(STEP)) ^ mix((statement as u64).wrapping_add(STEP));
        Random(mix(seed ^ place))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// As many bytes as asked for.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next_u64().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Spreads each bit over all (the finalizer of SplitMix64).
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas of all versions draw these numbers.
    #[test]
    fn the_sequence_never_changes() {
        let mut random = Random::new(1, 2, 3);
        let drawn = [random.next_u64(), random.next_u64()];
        assert_eq!(
            drawn,
            [2_398_745_808_076_973_280, 7_409_706_632_099_484_667]
        );
        assert_eq!(Random::new(1, 2, 3).bytes(3), [224, 164, 226]);
    }

    #[test]
    fn each_place_has_its_own_sequence() {
        let first = |seed, seq, statement| Random::new(seed, seq, statement).next_u64();
        let mut firsts: Vec<u64> = (0..1000)
            .map(|n| first(n % 10, n / 10 % 10, (n / 100) as usize))
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 1000);
    }
}
