//! Arguments with a syntax of their own.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::control::{self, Failure, FailureKind, Name};

/// Bytes: digits, then nothing or a unit of K, M, G, T or P (powers of 1024), which `iB` may follow.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.strip_suffix("iB").unwrap_or(unit) {
        "" if unit.is_empty() => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        "P" | "p" => 50,
        _ => {
            return Err(
                "a size is a number of bytes, or a number with K, M, G, T or P (powers of 1024)".into()
            );
        }
    };
    let too_large = || format!("a size is at most {} bytes", u64::MAX);
    if number.is_empty() {
        return Err("a size begins with a number".into());
    }
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number.checked_mul(1 << shift).ok_or_else(too_large)
}

/// Seconds: digits, then nothing or a unit of s, m, h or d.
pub fn duration(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 0,
    };
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    let known = total.filter(|&total| total > 0);
    known.ok_or_else(|| "a time is a number of seconds above 0, or a number with s, m, h or d".into())
}

/// A time, as RFC 3339 writes it: given so, or as a date or time without a zone, in UTC, or as how long ago it was.
pub fn since(text: &str) -> Result<String, String> {
    let ago = || {
        Timestamp::now().checked_sub(SignedDuration::from_secs(duration(text).ok()?.try_into().ok()?)).ok()
    };
    let without_zone = || Some(text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    let time = ago().or_else(|| text.parse().ok()).or_else(without_zone);
    time.map(|time: Timestamp| time.to_string()).ok_or_else(|| {
        "it takes a time as 2026-11-23T10:00:00Z or 2026-11-23, or how long ago it was, as 90s, 30m, 12h, 7d".into()
    })
}

/// A number within `range`, all of which `T` can hold.
pub fn number<T: TryFrom<u32>>(
    range: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let number = number.and_then(|number: u32| T::try_from(number).ok());
        number.ok_or_else(|| format!("it takes a number from {} to {}", range.start(), range.end()))
    }
}

/// The longest request of a device: a power of two from 4 KiB to 4 MiB.
pub fn max_io(text: &str) -> Result<u32, String> {
    match size(text)? {
        bytes @ 4096..=0x40_0000 if bytes.is_power_of_two() => Ok(bytes as u32),
        bytes => Err(format!("{bytes} is not a power of two from 4096 (4K) to 4194304 (4M)")),
    }
}

/// The bytes of a sector.
pub fn sector_size(text: &str) -> Result<u32, String> {
    match size(text)? {
        512 => Ok(512),
        4096 => Ok(4096),
        bytes => Err(format!("a sector has 512 or 4096 bytes, not {bytes}")),
    }
}

/// A path, made absolute: the daemon works in another directory.
pub fn path(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| format!("cannot make '{text}' an absolute path: {error}"))
}

/// A KEK: `PROVIDER/KEK`.
#[derive(Clone, Debug)]
pub struct KekArgument {
    /// Whose.
    pub provider: Name,
    /// Its id there.
    pub kek_id: String,
}

impl std::str::FromStr for KekArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (provider, kek_id) = text
            .split_once('/')
            .ok_or("a KEK is named with its provider: PROVIDER/KEK; 'blkseal kek list' shows them")?;
        let provider = provider.parse().map_err(|error: control::NameError| error.to_string())?;
        match kek_id {
            "" => Err("a KEK has an id after its provider's name: PROVIDER/KEK".into()),
            _ => Ok(Self { provider, kek_id: kek_id.to_owned() }),
        }
    }
}

/// Where a volume's KEK is to come from: `PROVIDER`, or `PROVIDER/KEK`.
#[derive(Clone, Debug)]
pub struct KekTarget {
    /// Whose.
    pub provider: Name,
    /// Which one; none is the newest active one.
    pub kek_id: Option<String>,
}

impl std::str::FromStr for KekTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            let KekArgument { provider, kek_id } = text.parse()?;
            return Ok(Self { provider, kek_id: Some(kek_id) });
        }
        let provider = text.parse().map_err(|error: control::NameError| error.to_string())?;
        Ok(Self { provider, kek_id: None })
    }
}

/// What a volume is called by: its name, its UUID, or the path of its backing, which has a `/`.
#[derive(Clone, Debug)]
pub struct VolumeArgument {
    text: String,
    given: String,
}

impl VolumeArgument {
    /// What the daemon is to look for; a path is absolute.
    pub fn text(&self) -> String {
        self.text.clone()
    }

    /// Adds to a failure what the user may have meant: a file of this directory, named without a `/`.
    pub fn explain(&self, failure: Failure) -> Failure {
        let Self { text, given } = self;
        if failure.kind == FailureKind::NotFound && text == given && Path::new(given).exists() {
            failure.hint(format!("to name a volume by the path of its backing, write ./{given}"))
        } else {
            failure
        }
    }
}

impl std::str::FromStr for VolumeArgument {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let given = given.to_owned();
        if given.is_empty() {
            return Err("a volume has a name, a UUID or the path of its backing".into());
        }
        if !given.contains('/') {
            return Ok(Self { text: given.clone(), given });
        }
        let text = path(&given)?.into_os_string().into_string();
        let text = text.map_err(|path| format!("{} is not UTF-8", path.display()))?;
        Ok(Self { text, given })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{KekArgument, VolumeArgument, max_io, number, sector_size, since, size};

    #[test]
    fn sizes_take_units_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4K", 4096),
            ("4k", 4096),
            ("256M", 256 << 20),
            ("256MiB", 256 << 20),
            ("3G", 3 << 30),
            ("2T", 2 << 40),
            ("16383P", 16383 << 50),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_not_truncated() {
        for text in [
            "",
            "K",
            "iB",
            "4iB",
            "-1",
            "+1",
            "1.5G",
            "4 K",
            "4KB",
            "4MB",
            "0x10",
            "16384P",
            "18446744073709551616",
            "99999999999999999999999999K",
            "１K",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_named() {
        assert_eq!(max_io("4K"), Ok(4096));
        assert_eq!(max_io("4M"), Ok(4 << 20));
        for text in ["2K", "8M", "5000", "4294971392"] {
            assert!(max_io(text).unwrap_err().contains("from 4096"), "{text}");
        }
        assert_eq!((sector_size("4K"), sector_size("512")), (Ok(4096), Ok(512)));
        assert!(sector_size("4294967808").unwrap_err().contains("512 or 4096"));
    }

    #[test]
    fn times_are_given_as_such_or_as_how_long_ago() {
        for (text, time) in [
            ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00Z"),
            ("2026-11-23T10:00:00.5+02:00", "2026-11-23T08:00:00.5Z"),
            ("2026-11-23 10:00", "2026-11-23T10:00:00Z"),
            ("2026-11-23", "2026-11-23T00:00:00Z"),
        ] {
            assert_eq!(since(text), Ok(time.into()), "{text}");
        }
        let ago = |text: &str| {
            let then: jiff::Timestamp = since(text).unwrap().parse().unwrap();
            jiff::Timestamp::now().duration_since(then).as_secs()
        };
        assert!((7200..7260).contains(&ago("2h")) && (604_800..604_860).contains(&ago("7d")));
        for text in
            ["", "0", "yesterday", "10:00", "2026-13-01", "99999999999999999999s", "9223372036854775807s"]
        {
            assert!(since(text).unwrap_err().contains("2026-11-23T10:00:00Z"), "{text}");
        }
    }

    #[test]
    fn numbers_are_within_their_range_or_refused_not_truncated() {
        let queues = number::<u16>(1..=64);
        assert_eq!((queues("1"), queues("64")), (Ok(1), Ok(64)));
        for text in ["0", "65", "65537", "4294967297", "-1", "1.0", "", "many"] {
            assert_eq!(queues(text), Err("it takes a number from 1 to 64".into()), "{text}");
        }
        assert!(number::<u8>(0..=1000)("300").is_err());
    }

    #[test]
    fn a_volume_with_a_slash_is_a_path() {
        let volume = |text: &str| text.parse::<VolumeArgument>().map(|volume| volume.text());
        let here = std::env::current_dir().unwrap();
        assert_eq!(volume("vm1"), Ok("vm1".into()));
        assert_eq!(volume("/dev/sdb"), Ok("/dev/sdb".into()));
        assert_eq!(volume("./disk.img"), Ok(format!("{}/disk.img", here.display())));
        assert!(volume("").is_err());
    }

    #[test]
    fn a_kek_is_named_with_its_provider() {
        let kek =
            |text: &str| text.parse().map(|KekArgument { provider, kek_id }| format!("{provider} {kek_id}"));
        assert_eq!(kek("office/3"), Ok("office 3".into()));
        assert_eq!(kek("office/urn:a/b"), Ok("office urn:a/b".into()), "an id may have a slash, a name not");
        for text in ["office", "office/", "/3", "../3", ""] {
            assert!(kek(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_number_of_bytes_is_itself(bytes: u64) {
            prop_assert_eq!(size(&bytes.to_string()), Ok(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = size(&text);
        }
    }
}
