//! The page.
use super::run::Study;

/// The whole page, with nothing that is not in it.
pub fn page(_study: &Study<'_>) -> String {
    String::new()
}
