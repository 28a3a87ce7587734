//! Prometheus' text exposition format 0.0.4.

use std::fmt::Write as _;

use super::{Counter, Family, Histogram};

/// A document that is being written. Writing to a `String` does not fail.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    pub fn finish(self) -> String {
        self.0
    }

    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        let _ = writeln!(self.0, "{name} {value}");
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: i64) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// Milliseconds, written as seconds, the format's unit of time.
    pub fn seconds_gauge(&mut self, name: &str, help: &str, millis: i64) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "{name} {}.{:03}", millis / 1_000, millis % 1_000);
    }

    pub fn family<const N: usize>(&mut self, name: &str, help: &str, family: &Family<Counter, N>) {
        self.head(name, help, "counter");
        let labels = family.labels();
        family.each(|values, counter| {
            self.0.push_str(name);
            let pairs = labels.iter().zip(values);
            for ((label, value), open) in
                pairs.zip(std::iter::once('{').chain(std::iter::repeat(',')))
            {
                let _ = write!(self.0, "{open}{label}=\"");
                escape(value, &mut self.0);
                self.0.push('"');
            }
            let _ = writeln!(self.0, "}} {}", counter.get());
        });
    }

    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let mut count = 0;
        for (bound, total) in histogram.cumulative() {
            let _ = match bound {
                Some(bound) => writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {total}"),
                None => writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {total}"),
            };
            count = total;
        }
        let _ = writeln!(self.0, "{name}_sum {}", histogram.sum().as_secs_f64());
        let _ = writeln!(self.0, "{name}_count {count}");
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
}

/// A label value may hold anything but a bare backslash, quote or line feed.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_text_is_as_the_format_says() {
        let family: Family<Counter, 2> = Family::new(["protocol", "reason"]);
        family.with(["segment", "a\"b\\c\nd"]).add(3);
        family.with(["ga4", "x"]).inc();
        let histogram = Histogram::new(&[0.005, 1.0]);
        histogram.observe(Duration::from_millis(5));
        histogram.observe(Duration::from_millis(2_500));
        let mut text = Text::default();
        text.family("f_total", "Help.", &family);
        text.histogram("h_seconds", "Help.", &histogram);
        text.seconds_gauge("g_seconds", "Help.", 61_007);
        text.counter("c_total", "Help.", 9);
        text.gauge("g", "Help.", -1);
        let expected = "\
# HELP f_total Help.
# TYPE f_total counter
f_total{protocol=\"ga4\",reason=\"x\"} 1
f_total{protocol=\"segment\",reason=\"a\\\"b\\\\c\\nd\"} 3
# HELP h_seconds Help.
# TYPE h_seconds histogram
h_seconds_bucket{le=\"0.005\"} 1
h_seconds_bucket{le=\"1\"} 1
h_seconds_bucket{le=\"+Inf\"} 2
h_seconds_sum 2.505
h_seconds_count 2
# HELP g_seconds Help.
# TYPE g_seconds gauge
g_seconds 61.007
# HELP c_total Help.
# TYPE c_total counter
c_total 9
# HELP g Help.
# TYPE g gauge
g -1
";
        assert_eq!(text.finish(), expected);
    }
}
