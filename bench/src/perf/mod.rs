//! Has a kernel or the data path become slower? Ratios of one run, held against those that are stored for this CPU.
//!
//! Ratios stay the same where rates do not: on a machine that is busy, throttled or shared.
//!
//! | file | what it holds |
//! |---|---|
//! | `measure` | the ratios of this run |
//! | `stored` | the file with the ratios of earlier runs, by CPU |
//! | `verdict` | what a ratio has lost, and what that means |

mod measure;
mod stored;
mod verdict;

use std::collections::BTreeMap;

pub use measure::measure;
pub use stored::{Stored, StoredError, this_cpu};
pub use verdict::{TOLERANCE, Verdict, unheld};

/// Ratios by name within a group: a kernel, or the data path on one.
pub type Ratios = BTreeMap<String, BTreeMap<String, f64>>;

/// The ratios of several runs, each made one by `combine`.
pub fn combined(runs: &[Ratios], combine: impl Fn(Vec<f64>) -> f64) -> Ratios {
    let mut all: BTreeMap<&str, BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    for (group, ratios) in runs.iter().flatten() {
        for (name, &ratio) in ratios {
            all.entry(group).or_default().entry(name).or_default().push(ratio);
        }
    }
    let names = |ratios: BTreeMap<&str, Vec<f64>>| {
        ratios.into_iter().map(|(name, ratios)| (name.to_owned(), combine(ratios))).collect()
    };
    all.into_iter().map(|(group, ratios)| (group.to_owned(), names(ratios))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_combined_ratio_by_ratio() {
        let run = |ratio| Ratios::from([("a".into(), BTreeMap::from([("b".into(), ratio)]))]);
        let runs = [run(0.7), run(0.9), run(0.8)];
        assert_eq!(combined(&runs, crate::median::median), run(0.8));
        assert_eq!(combined(&runs, |ratios| ratios[1]), run(0.9));
    }
}
