//! Which instructions the cipher uses.

use std::fmt;
use std::str::FromStr;

use super::CipherError;

/// The way that AES is computed. All ways give the same bytes; they differ in speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuPath {
    /// The `aes` crate in batches: any CPU.
    Portable,
    /// AES-NI with 128-bit registers (x86-64 with AVX).
    AesNi,
    /// VAES with 256-bit registers (x86-64 with AVX2).
    Vaes256,
    /// VAES with 512-bit registers (x86-64 with AVX-512 F and BW).
    Vaes512,
    /// The AES instructions of ARMv8 (64-bit ARM, little endian).
    Neon,
}

impl CpuPath {
    /// Every path, the fastest first.
    pub const ALL: [Self; 5] = [Self::Vaes512, Self::Vaes256, Self::AesNi, Self::Neon, Self::Portable];

    /// The paths that this CPU has, the fastest first. [`CpuPath::Portable`] is always among them.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|path| path.is_available()).collect()
    }

    /// The fastest path that this CPU has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|path| path.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this CPU, and the operating system on it, has the instructions of this path.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::AesNi => is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx"),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes256 => is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes512 => {
                is_x86_feature_detected!("vaes")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon => std::arch::is_aarch64_feature_detected!("aes"),
            // The instructions of another architecture.
            _ => false,
        }
    }

    /// The name that `--cpu-path` takes and `status` shows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::AesNi => "aesni",
            Self::Vaes256 => "vaes256",
            Self::Vaes512 => "vaes512",
            Self::Neon => "neon",
        }
    }
}

impl fmt::Display for CpuPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CpuPath {
    type Err = CipherError;

    /// Reads a [`name`](Self::name). Fails for any other text; whether this CPU has the path is not asked.
    fn from_str(name: &str) -> Result<Self, CipherError> {
        Self::ALL
            .into_iter()
            .find(|path| path.name() == name)
            .ok_or_else(|| CipherError::UnknownPath(name.into()))
    }
}
