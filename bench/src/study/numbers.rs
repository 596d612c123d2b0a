//! Numbers as people read them.

/// Three digits that count: `950`, `54.2k`, `1.82M`.
pub fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        large if large >= 999_500.0 => (value / 1e6, "M"),
        middle if middle >= 9995.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{unit}", three_digits(value))
}

/// A time given in microseconds: `12.3 µs`, `1.02 ms`, `2.50 s`.
pub fn time(us: f64) -> String {
    let (value, unit) = match us.abs() {
        long if long >= 999_500.0 => (us / 1e6, "s"),
        middle if middle >= 999.5 => (us / 1e3, "ms"),
        _ => (us, "µs"),
    };
    format!("{} {unit}", three_digits(value))
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        large if large >= 99.95 => format!("{value:.0}"),
        middle if middle >= 9.995 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        assert_eq!([0.0, 0.5, 12.34, 950.4, 9994.0].map(short), ["0", "0.50", "12.3", "950", "9994"]);
        assert_eq!([9996.0, 54_190.0, 1_822_000.0].map(short), ["10.0k", "54.2k", "1.82M"]);
        assert_eq!(
            [9.999, 12.34, 1020.0, 2_500_000.0].map(time),
            ["10.0 µs", "12.3 µs", "1.02 ms", "2.50 s"]
        );
        assert_eq!(time(999.6), "1.00 ms");
    }
}
