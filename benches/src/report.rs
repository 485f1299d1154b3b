//! The one JSON object of a benchmark: flat keys, each figure with its spread, and the machine it was measured on.
//!
//! Must never leave a promised key out: what could not be measured is null, with the reason beside it, and a report without
//! one of them is an error.

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::machine::{self, Stolen};
use crate::stats::{bootstrap_95, spread};

/// The keys that whoever reads a benchmark can rely on, under its name. Those of `noisy` are each kind's.
const PROMISED: [(&str, &[&str]); 6] = [
    (
        "http",
        &[
            "fresh_rps",
            "serve_default_rps",
            "serve_tuned_rps",
            "serve_reuse_rps",
            "workerd_rps",
            "ratio_fresh_vs_tuned",
            "ratio_warm_vs_reuse",
        ],
    ),
    ("noisy", &["p50_ratio", "p99_ratio", "p99_added_us", "control_p99_ratio", "serve_p99_ratio", "workerd_p99_ratio"]),
    ("shares", &["error_percent"]),
    ("cold", &["first_answer_us"]),
    ("density", &["rss_per_tenant_kib", "start_ms"]),
    ("metering", &["error_percent"]),
];

/// What is promised under the name of a benchmark.
fn promised(bench: &str) -> impl Iterator<Item = &'static str> {
    let of_bench = PROMISED.into_iter().filter(move |(name, _)| *name == bench);
    of_bench.flat_map(|(_, keys)| keys.iter().copied())
}

/// Figures under `{bench}.`.
pub struct Report {
    bench: &'static str,
    /// The parts that have the promised keys each; one without a name where there are none.
    parts: Vec<String>,
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
        Ok(Self { bench, parts: vec![String::new()], figures, stolen: Stolen::read()? })
    }

    /// The same, of a benchmark that has the promised keys under each of these names.
    pub fn start_in_parts<'a>(bench: &'static str, names: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let parts = names.into_iter().map(|name| format!("{name}.")).collect();
        Ok(Self { parts, ..Self::start(bench)? })
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

    /// Every promised key that a part has no figure for could not be measured, and why.
    pub fn missing_part(&mut self, name: &str, reason: &str) -> Result<()> {
        for key in promised(self.bench) {
            if !self.figures.contains_key(&format!("{}.{name}.{key}", self.bench)) {
                self.missing(&format!("{name}.{key}"), reason)?;
            }
        }
        Ok(())
    }

    /// The object; an error when a promised key is not in it.
    pub fn finish(mut self) -> Result<Value> {
        let keys = self.parts.iter().flat_map(|part| promised(self.bench).map(move |key| format!("{part}{key}")));
        let absent: Vec<String> =
            keys.filter(|key| !self.figures.contains_key(&format!("{}.{key}", self.bench))).collect();
        ensure!(absent.is_empty(), "`{}` has no {}", self.bench, absent.join(", "));
        self.figures.insert("stolen_percent".to_owned(), self.stolen.percent()?.into());
        self.figures.insert("seconds".to_owned(), rounded(self.stolen.elapsed().as_secs_f64()).into());
        Ok(Value::Object(self.figures))
    }
}

/// Four digits behind the point, or three significant ones of what is smaller.
fn rounded(figure: f64) -> f64 {
    (figure * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::kinds::Kind;

    #[test]
    fn a_report_without_a_promised_key_is_an_error_that_names_it() {
        let mut report = Report::start("density").unwrap();
        report.put("start_ms", 7).unwrap();
        assert_eq!(report.finish().unwrap_err().to_string(), "`density` has no rss_per_tenant_kib");
        let mut report = Report::start("density").unwrap();
        report.put("start_ms", 7).unwrap();
        report.missing("rss_per_tenant_kib", "no round").unwrap();
        assert_eq!(report.finish().unwrap()["density.rss_per_tenant_kib_reason"], "no round");
        assert!(Report::start("blob").unwrap().finish().is_ok(), "nothing is promised of it");
    }

    #[test]
    fn each_part_has_its_own_or_says_why_not() {
        let start = || Report::start_in_parts("noisy", ["spin4", "flood"]).unwrap();
        let mut report = start();
        report.missing_part("spin4", "it hung").unwrap();
        assert!(report.finish().unwrap_err().to_string().contains("flood.p99_added_us"));
        let mut report = start();
        report.put("flood.p99_ratio", 1.2).unwrap();
        for part in ["spin4", "flood"] {
            report.missing_part(part, "it hung").unwrap();
        }
        let figures = report.finish().unwrap();
        assert_eq!((&figures["noisy.flood.p99_ratio"], &figures["noisy.flood.p50_ratio"]), (&json!(1.2), &Value::Null));
    }

    #[test]
    fn what_is_promised_is_this_of_these_kinds() {
        let names: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        let kinds = "spin4 spin16 flood memgrow bulkmem allocstorm logflood kvflood slowbody compile";
        assert_eq!(names.join(" "), kinds);
        let all: Vec<String> =
            PROMISED.iter().flat_map(|(bench, keys)| keys.iter().map(move |key| format!("{bench}.{key}"))).collect();
        let promise = "http.fresh_rps http.serve_default_rps http.serve_tuned_rps http.serve_reuse_rps http.workerd_rps \
            http.ratio_fresh_vs_tuned http.ratio_warm_vs_reuse noisy.p50_ratio noisy.p99_ratio noisy.p99_added_us \
            noisy.control_p99_ratio noisy.serve_p99_ratio noisy.workerd_p99_ratio shares.error_percent \
            cold.first_answer_us density.rss_per_tenant_kib density.start_ms metering.error_percent";
        assert_eq!(all.join(" "), promise);
    }

    #[test]
    fn kept_runs_have_what_is_promised() {
        let mut read_count = 0;
        for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("runs")).unwrap() {
            let path = file.unwrap().path();
            let run: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let bench = run["bench"].as_str().unwrap();
            let parts = if bench == "noisy" {
                Kind::ALL.map(|kind| format!("{}.", kind.name())).to_vec()
            } else {
                vec![String::new()]
            };
            for key in parts.iter().flat_map(|part| promised(bench).map(move |key| format!("{bench}.{part}{key}"))) {
                assert!(run.get(&key).is_some(), "{}: {key}", path.display());
            }
            read_count += 1;
        }
        assert!(read_count > 0);
    }
}
