//! An agent's metrics for OTLP, from the text in which they are scraped: so both say the same, and
//! keep their names.
//!
//! Reads what prometheus-client writes, which is a part of OpenMetrics: counters, gauges and
//! histograms, without timestamps and exemplars. Not here: what the metrics mean.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use super::logs::{SCHEMA, pair, scope};

/// A request with the metrics in `text`, counted since `began`.
pub fn request(
    text: &str,
    resource: &Resource,
    began: u64,
    now: u64,
) -> ExportMetricsServiceRequest {
    let metrics = Reader { began, now, ..Reader::default() }.read(text);
    let scope_metrics = ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() };
    let resource_metrics = ResourceMetrics {
        resource: Some(resource.clone()),
        scope_metrics: vec![scope_metrics],
        schema_url: SCHEMA.into(),
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

/// Labels in the order in which they stand.
type Labels = Vec<(String, String)>;

/// What is known of a family so far.
#[derive(Default)]
struct Reader {
    began: u64,
    now: u64,
    name: String,
    help: String,
    kind: Kind,
    points: Vec<NumberDataPoint>,
    histograms: BTreeMap<Labels, HistogramDataPoint>,
    metrics: Vec<Metric>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    #[default]
    Other,
}

impl Reader {
    fn read(mut self, text: &str) -> Vec<Metric> {
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                self.begin(rest.split_once(' ').unwrap_or((rest, "")));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
                if name != self.name {
                    self.begin((name, ""));
                }
                self.kind = match kind {
                    "counter" => Kind::Counter,
                    "gauge" => Kind::Gauge,
                    "histogram" => Kind::Histogram,
                    _ => Kind::Other,
                };
            } else if !line.starts_with('#')
                && let Some((name, labels, value)) = sample(line)
            {
                self.take(name, labels, value);
            }
        }
        self.end();
        self.metrics
    }

    fn begin(&mut self, (name, help): (&str, &str)) {
        self.end();
        (self.name, self.help, self.kind) = (name.into(), unescaped(help), Kind::Other);
    }

    fn take(&mut self, name: &str, mut labels: Labels, value: f64) {
        if self.kind != Kind::Histogram {
            self.points.push(NumberDataPoint {
                attributes: attributes(&labels),
                start_time_unix_nano: if self.kind == Kind::Counter { self.began } else { 0 },
                time_unix_nano: self.now,
                value: Some(number(value)),
                ..NumberDataPoint::default()
            });
            return;
        }
        let bound = labels.iter().position(|(key, _)| key == "le").map(|at| labels.remove(at).1);
        let (began, now) = (self.began, self.now);
        let point = self.histograms.entry(labels).or_insert_with_key(|labels| HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: began,
            time_unix_nano: now,
            ..HistogramDataPoint::default()
        });
        match name.strip_prefix(&*self.name) {
            Some("_sum") => point.sum = Some(value),
            Some("_count") => point.count = value as u64,
            Some("_bucket") => {
                // Those of the text include all smaller ones.
                let smaller: u64 = point.bucket_counts.iter().sum();
                point.bucket_counts.push((value as u64).saturating_sub(smaller));
                let bound = bound.and_then(|bound| bound.parse::<f64>().ok());
                point.explicit_bounds.extend(bound.filter(|bound| bound.is_finite()));
            }
            _ => {}
        }
    }

    fn end(&mut self) {
        let (points, histograms) =
            (std::mem::take(&mut self.points), std::mem::take(&mut self.histograms));
        let cumulative = AggregationTemporality::Cumulative.into();
        let data = match self.kind {
            Kind::Counter if !points.is_empty() => Data::Sum(Sum {
                data_points: points,
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
            Kind::Gauge if !points.is_empty() => Data::Gauge(Gauge { data_points: points }),
            Kind::Histogram if !histograms.is_empty() => Data::Histogram(Histogram {
                data_points: histograms.into_values().collect(),
                aggregation_temporality: cumulative,
            }),
            _ => return,
        };
        // As it is scraped, so that queries are the same.
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        self.metrics.push(Metric {
            name: format!("{}{suffix}", self.name),
            description: self.help.trim_end_matches('.').into(),
            data: Some(data),
            ..Metric::default()
        });
    }
}

fn attributes(labels: &[(String, String)]) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| pair(key, Value::StringValue(value.clone()))).collect()
}

/// Whole numbers as such.
fn number(value: f64) -> number_data_point::Value {
    let whole = value as i64;
    match whole as f64 == value {
        true => number_data_point::Value::AsInt(whole),
        false => number_data_point::Value::AsDouble(value),
    }
}

/// `name{label="value"} 1`.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            if let Some(behind) = rest.strip_prefix('}') {
                rest = behind;
                break;
            }
            let (key, value) = rest.split_once("=\"")?;
            let end = quote(value)?;
            labels.push((key.trim_start_matches(',').into(), unescaped(&value[..end])));
            rest = &value[end + 1..];
        }
    }
    Some((name, labels, rest.split_whitespace().next()?.parse().ok()?))
}

/// Where a value's closing quote is.
fn quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

fn unescaped(text: &str) -> String {
    let (mut plain, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => {}
            },
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP netpolc_flows Flows, by what was decided.
# TYPE netpolc_flows counter
netpolc_flows_total{verdict="denied"} 3
netpolc_flows_total{verdict="a \"b\" \\ c",x="}"} 4
# HELP netpolc_in_step 1 while.
# TYPE netpolc_in_step gauge
netpolc_in_step 1
# HELP netpolc_latency_seconds From.
# TYPE netpolc_latency_seconds histogram
netpolc_latency_seconds_sum 0.75
netpolc_latency_seconds_count 3
netpolc_latency_seconds_bucket{le="0.1"} 1
netpolc_latency_seconds_bucket{le="0.5"} 3
netpolc_latency_seconds_bucket{le="+Inf"} 3
# HELP netpolc_none Nothing.
# TYPE netpolc_none counter
# EOF
"#;

    #[test]
    fn metrics_are_those_that_are_scraped() {
        let request = request(TEXT, &Resource::default(), 5, 9);
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        let names: Vec<&str> = metrics.iter().map(|metric| &*metric.name).collect();
        assert_eq!(names, ["netpolc_flows_total", "netpolc_in_step", "netpolc_latency_seconds"]);
        let Some(Data::Sum(flows)) = &metrics[0].data else { panic!("{:?}", metrics[0]) };
        assert!(flows.is_monotonic);
        let second = &flows.data_points[1];
        assert_eq!(second.value, Some(number_data_point::Value::AsInt(4)));
        assert_eq!((second.start_time_unix_nano, second.time_unix_nano), (5, 9));
        let expected = [("verdict", "a \"b\" \\ c"), ("x", "}")]
            .map(|(key, value)| pair(key, Value::StringValue(value.into())));
        assert_eq!(second.attributes, expected);
        let Some(Data::Histogram(latency)) = &metrics[2].data else { panic!("{:?}", metrics[2]) };
        let point = &latency.data_points[0];
        assert_eq!((point.count, point.sum), (3, Some(0.75)));
        assert_eq!(
            (&*point.bucket_counts, &*point.explicit_bounds),
            (&[1, 2, 0][..], &[0.1, 0.5][..])
        );
    }
}
