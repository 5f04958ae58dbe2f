//! The report as one self-contained page: the tables, and the latencies as a plot.

use anyhow::{Result, anyhow};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::prelude::*;

use crate::floor::TABLE_HEADER;
use crate::histogram::{Latencies, percentile_us};
use crate::report::{HEADER, Report};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;\
padding:0 1em}table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;\
text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}\
svg{max-width:100%;height:auto}";

/// Percentiles on the plot, as nines: 0 is the minimum, 1 is p90, 2 is p99.
const NINES_MAX: f64 = 3.3;
const POINTS: usize = 200;

/// The page.
pub(crate) fn page(report: &Report, curves: &[(String, Latencies)]) -> Result<String> {
    let plot = plot(curves)?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Pontoon: benchmark" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Pontoon against the floor of the same run" }
                p { (report.environment.line()) }
                h2 { "The floor" }
                (table(&TABLE_HEADER, &report.floor.rows()))
                h2 { "The engine" }
                (table(&HEADER, &report.rows()))
                @for line in report.floors_differ() {
                    p { "The floor moved by more than a quarter meanwhile: " (line) }
                }
                p {
                    "All replicas agree on " (report.commands_checked)
                    " commands; each was applied once, in order, on every node."
                }
                h2 { "Latency by percentile" }
                (PreEscaped(plot))
            }
        }
    };
    Ok(page.into_string())
}

fn table(header: &[&str], rows: &[Vec<String>]) -> Markup {
    html! {
        table {
            tr { @for name in header { th { (name) } } }
            @for row in rows { tr { @for cell in row { td { (cell) } } } }
        }
    }
}

fn plot(curves: &[(String, Latencies)]) -> Result<String> {
    let mut svg = String::new();
    let failed = |error: &dyn std::fmt::Display| anyhow!("drawing the plot: {error}");
    {
        let area = SVGBackend::with_string(&mut svg, (1000, 520)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let highest = curves
            .iter()
            .map(|(_, latencies)| percentile_us(latencies, 99.95))
            .fold(10.0, f64::max);
        let lowest = curves
            .iter()
            .map(|(_, latencies)| percentile_us(latencies, 0.0))
            .fold(highest, f64::min)
            .max(1.0);
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(45)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..NINES_MAX, (lowest..highest).log_scale())
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .x_desc("percentile")
            .y_desc("microseconds")
            .x_label_formatter(&|nines| format!("{:.4}", percentile_of(*nines)))
            .draw()
            .map_err(|error| failed(&error))?;
        for (position, (name, latencies)) in curves.iter().enumerate() {
            let color = Palette99::pick(position).to_rgba();
            let points = (0..=POINTS).map(|point| {
                let nines = NINES_MAX * point as f64 / POINTS as f64;
                (
                    nines,
                    percentile_us(latencies, percentile_of(nines)).max(lowest),
                )
            });
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))
                .map_err(|error| failed(&error))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE)
            .border_style(BLACK)
            .position(SeriesLabelPosition::UpperLeft)
            .draw()
            .map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))?;
    }
    Ok(svg)
}

fn percentile_of(nines: f64) -> f64 {
    100.0 * (1.0 - 10_f64.powf(-nines))
}
