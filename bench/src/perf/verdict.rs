//! What a ratio has lost, and what that means.

use std::fmt;

use super::Ratios;

/// The part of a stored ratio that a run may lose.
pub const TOLERANCE: f64 = 0.10;

/// One ratio beside what is stored for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The kernel, or the data path on one.
    pub group: String,
    /// The ratio's name within the group.
    pub name: String,
    /// What is stored.
    pub stored: f64,
    /// What this run says; `None` if it did not measure the ratio.
    pub now: Option<f64>,
}

impl Verdict {
    /// Judges `now` by what is stored.
    pub fn all(stored: &Ratios, now: &Ratios) -> Vec<Self> {
        let judge = |group: &String, name: &String, stored: f64| Self {
            group: group.clone(),
            name: name.clone(),
            stored,
            now: now.get(group).and_then(|ratios| ratios.get(name)).copied(),
        };
        stored
            .iter()
            .flat_map(|(group, ratios)| ratios.iter().map(move |(name, &ratio)| judge(group, name, ratio)))
            .collect()
    }

    /// What was gained, or lost if negative, as a part of what is stored.
    pub fn change(&self) -> Option<f64> {
        self.now.map(|now| now / self.stored - 1.0)
    }

    /// Whether more than [`TOLERANCE`] was lost, or the ratio is gone.
    pub fn is_lost(&self) -> bool {
        // A change that is not a number is a loss too.
        !self.change().is_some_and(|change| change >= -TOLERANCE)
    }
}

/// What was measured and has nothing stored to be held against, so that its loss would not be seen.
pub fn unheld(stored: &Ratios, now: &Ratios) -> Vec<String> {
    let is_stored =
        |group: &String, name: &String| stored.get(group).is_some_and(|ratios| ratios.contains_key(name));
    now.iter()
        .flat_map(|(group, ratios)| ratios.keys().map(move |name| (group, name)))
        .filter(|&(group, name)| !is_stored(group, name))
        .map(|(group, name)| format!("{group}: {name}"))
        .collect()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, name, stored, now } = self;
        match (now, self.change()) {
            (Some(now), Some(change)) => {
                write!(f, "{group:<18} {name:<34} {stored:>6.3} {now:>6.3} {:>+6.1} %", change * 100.0)?;
            }
            _ => write!(f, "{group:<18} {name:<34} {stored:>6.3}   gone")?,
        }
        if self.is_lost() { write!(f, "  LOST") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ratios(ratio: f64) -> Ratios {
        Ratios::from([("cipher aesni".to_owned(), BTreeMap::from([("encrypt".to_owned(), ratio)]))])
    }

    fn lost(now: &Ratios) -> bool {
        Verdict::all(&ratios(0.9), now).iter().any(Verdict::is_lost)
    }

    #[test]
    fn a_tenth_may_be_lost_and_no_more() {
        assert!(!lost(&ratios(1.2)));
        assert!(!lost(&ratios(0.82)));
        assert!(lost(&ratios(0.80)));
    }

    #[test]
    fn what_is_not_stored_is_not_held() {
        let mut now = ratios(0.9);
        assert!(unheld(&ratios(0.9), &now).is_empty());
        now.insert("cipher new".to_owned(), BTreeMap::from([("decrypt".to_owned(), 0.9)]));
        now.get_mut("cipher aesni").unwrap().insert("decrypt".to_owned(), 0.9);
        assert_eq!(unheld(&ratios(0.9), &now), ["cipher aesni: decrypt", "cipher new: decrypt"]);
    }

    #[test]
    fn what_was_not_measured_or_is_no_number_is_lost() {
        assert!(lost(&Ratios::new()));
        assert!(lost(&ratios(f64::NAN)));
    }
}
