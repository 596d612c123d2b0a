//! Plots as SVG within the page.
