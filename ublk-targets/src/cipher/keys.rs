//! Round keys of a volume, as every kernel reads them.

/// Rounds of AES-256.
pub(super) const ROUNDS: usize = 14;

/// The round keys of one key, in the order of use.
#[repr(C, align(16))]
pub(super) struct Schedule(pub [[u8; 16]; ROUNDS + 1]);

/// The data key, both ways, and the tweak key, which only ever encrypts.
#[repr(C, align(64))]
pub(super) struct RoundKeys {
    pub encrypt: Schedule,
    pub decrypt: Schedule,
    pub tweak: Schedule,
}

#[cfg(test)]
impl RoundKeys {
    /// Every round key of every schedule.
    pub(super) fn all_blocks(&self) -> impl Iterator<Item = [u8; 16]> {
        [&self.encrypt, &self.decrypt, &self.tweak].into_iter().flat_map(|schedule| schedule.0)
    }
}
