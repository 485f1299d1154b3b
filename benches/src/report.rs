//! The one JSON object of a benchmark: flat keys, each figure with its spread, and the machine it was measured on.
//!
//! Must never leave a promised key out: what could not be measured is null, with the reason beside it.

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::machine::{self, Stolen};
use crate::stats::{bootstrap_95, spread};

/// Figures under `{bench}.`.
pub struct Report {
    bench: &'static str,
    figures: Map<String, Value>,
    stolen: Stolen,
}

impl Report {
    /// Starts a report; call it before measuring, since it also counts what the machine takes away meanwhile.
    pub fn start(bench: &'static str) -> Result<Self> {
        let mut figures = Map::new();
        figures.insert("bench".to_owned(), bench.into());
        figures.insert("date".to_owned(), machine::now().into());
        figures.insert("machine".to_owned(), machine::describe());
        Ok(Self { bench, figures, stolen: Stolen::read()? })
    }

    /// A fact about the run, outside the bench's own keys.
    pub fn fact(&mut self, key: &str, value: impl Serialize) -> Result<()> {
        self.figures.insert(key.to_owned(), serde_json::to_value(value)?);
        Ok(())
    }

    /// One value under `{bench}.{key}`.
    pub fn put(&mut self, key: &str, value: impl Serialize) -> Result<()> {
        self.figures.insert(format!("{}.{key}", self.bench), serde_json::to_value(value)?);
        Ok(())
    }

    /// The median of figures, one a round, and their spread as `{key}_spread`.
    pub fn median(&mut self, key: &str, figures: &[f64]) -> Result<()> {
        match spread(figures) {
            Some(spread) => {
                self.put(key, rounded(spread.median))?;
                let [min, max] = [rounded(spread.min), rounded(spread.max)];
                self.put(&format!("{key}_spread"), json!({ "median": rounded(spread.median), "min": min, "max": max }))
            }
            None => self.missing(key, "there was no round"),
        }
    }

    /// The same, with the bootstrap's interval as `{key}_ci95`.
    pub fn median_with_interval(&mut self, key: &str, figures: &[f64]) -> Result<()> {
        self.median(key, figures)?;
        self.put(&format!("{key}_ci95"), bootstrap_95(figures, 1).map(|ends| ends.map(rounded)))
    }

    /// A key that could not be measured, and why.
    pub fn missing(&mut self, key: &str, reason: &str) -> Result<()> {
        self.put(key, Value::Null)?;
        self.put(&format!("{key}_reason"), reason)
    }

    /// The object.
    pub fn finish(mut self) -> Result<Value> {
        self.figures.insert("stolen_percent".to_owned(), self.stolen.percent()?.into());
        self.figures.insert("seconds".to_owned(), rounded(self.stolen.elapsed().as_secs_f64()).into());
        Ok(Value::Object(self.figures))
    }
}

/// Four digits behind the point, or three significant ones of what is smaller.
fn rounded(figure: f64) -> f64 {
    (figure * 1e4).round() / 1e4
}
