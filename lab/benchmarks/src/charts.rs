//! The two charts.
//!
//! Owns nothing but how they look.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

use crate::measure::Sample;
use crate::peers::FLOOR;
use crate::run::Run;
use crate::scenarios;

/// CPU a message by scenario and peer.
pub const CPU: &str = "benchmarks-cpu.svg";
/// CPU a message by the number of connections.
pub const SCALE: &str = "benchmarks-scale.svg";

const SIZE: (u32, u32) = (1100, 520);
const FONT: &str = "sans-serif";

/// Connections and microseconds.
type Line = Vec<(f64, f64)>;

/// In the order of the peers; the floor is a line and takes none.
const COLOURS: [RGBColor; 9] = [
    RGBColor(214, 39, 40),
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
    RGBColor(188, 189, 34),
];

fn cpu(sample: &Sample) -> f64 {
    sample.cpu_per_message_us
}

/// The peers with a bar or a line, and its colour.
fn coloured(run: &Run) -> Vec<(&'static str, RGBColor)> {
    let names = run.peers.iter().map(|(name, ..)| *name).filter(|name| *name != FLOOR && !name.ends_with("-spin"));
    names.zip(COLOURS.iter().copied().cycle()).collect()
}

/// Draws a bar for each peer in each scenario: how many times the floor's CPU a message it takes. The axis is
/// logarithmic and the bars stand on the floor, at 1.
pub fn by_scenario(run: &Run, path: &Path) -> anyhow::Result<bool> {
    let wanted = ["ping", "echo", "many", "pipeline", "bulk", "crowd", "churn"];
    let names: Vec<&str> = wanted.into_iter().filter(|name| run.samples.contains_key(name)).collect();
    let peers = coloured(run);
    let ratio = |scenario, peer| Some(run.ratio((scenario, peer), (scenario, FLOOR), cpu)?.median);
    let all: Vec<f64> =
        names.iter().flat_map(|scenario| peers.iter().filter_map(|(peer, _)| ratio(*scenario, *peer))).collect();
    if all.is_empty() {
        return Ok(false);
    }
    let most = all.iter().copied().fold(1.5, f64::max) * 1.2;
    let least = all.iter().copied().fold(0.8, f64::min) * 0.95;
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .caption("CPU a message, in multiples of the raw epoll floor (less is better)", (FONT, 20))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..names.len() as f64, (least..most).log_scale())
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_label_formatter(&|value| format!("{value:.1}"))
        .y_label_style((FONT, 14))
        .draw()
        .map_err(|error| failed(&error))?;
    let step = 0.84 / peers.len() as f64;
    for (index, (peer, colour)) in peers.iter().enumerate() {
        let bars = names.iter().enumerate().filter_map(|(group, scenario)| {
            let left = group as f64 + 0.08 + step * index as f64;
            let top = ratio(*scenario, *peer)?;
            Some(Rectangle::new([(left, 1.0), (left + step * 0.9, top)], colour.filled()))
        });
        let colour = *colour;
        chart
            .draw_series(bars)
            .map_err(|error| failed(&error))?
            .label(*peer)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
    }
    let floor = LineSeries::new([(0.0, 1.0), (names.len() as f64, 1.0)], &BLACK);
    chart
        .draw_series(floor)
        .map_err(|error| failed(&error))?
        .label(FLOOR)
        .legend(|(x, y)| PathElement::new([(x, y), (x + 14, y)], BLACK));
    let labels = names.iter().enumerate().map(|(group, name)| {
        let style = (FONT, 15).into_text_style(&area);
        let (x, y) = chart.backend_coord(&(group as f64 + 0.5, least));
        // Some 3.5 pixels for half a letter: without a font at hand, SVG text is not measured.
        let half = i32::try_from(name.len() * 7 / 2).unwrap_or_default();
        Text::new((*name).to_owned(), (x - half, y + 8), style)
    });
    for label in labels.collect::<Vec<_>>() {
        area.draw(&label).map_err(|error| failed(&error))?;
    }
    legend(&mut chart, path, SeriesLabelPosition::UpperLeft)?;
    area.present().map_err(|error| failed(&error))?;
    Ok(true)
}

/// Draws a line for each peer: CPU a message over the number of connections.
pub fn by_connections(run: &Run, path: &Path) -> anyhow::Result<bool> {
    let sizes: Vec<(&str, usize)> =
        scenarios::ALL.iter().filter_map(|scenario| Some((scenario.name, scenario.scale()?))).collect();
    let line = |peer: &str| -> Line {
        let points = sizes.iter();
        points.filter_map(|(name, size)| Some((*size as f64, run.spread(name, peer, cpu)?.median))).collect()
    };
    let peers: Vec<(&str, RGBColor)> = std::iter::once((FLOOR, BLACK)).chain(coloured(run)).collect();
    let lines: Vec<(&str, RGBColor, Line)> = peers
        .into_iter()
        .map(|(peer, colour)| (peer, colour, line(peer)))
        .filter(|(.., line)| line.len() > 1)
        .collect();
    let points = lines.iter().flat_map(|(.., line)| line);
    let Some(most) = points.clone().map(|(_, cpu)| *cpu).max_by(f64::total_cmp) else { return Ok(false) };
    let (first, last) = points.fold((f64::MAX, 0.0), |(first, last), (x, _)| (x.min(first), x.max(last)));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .caption("CPU a message by connections, 64 B each, all at work (less is better)", (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((first * 0.9..last * 1.1).log_scale(), 0.0..most * 1.15)
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .x_desc("connections")
        .y_desc("µs")
        .x_label_formatter(&|value| format!("{value:.0}"))
        .label_style((FONT, 14))
        .draw()
        .map_err(|error| failed(&error))?;
    for (peer, colour, line) in lines {
        let dots = line.iter().map(|point| Circle::new(*point, 3, colour.filled()));
        chart.draw_series(dots).map_err(|error| failed(&error))?;
        chart
            .draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(2)))
            .map_err(|error| failed(&error))?
            .label(peer)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
    }
    legend(&mut chart, path, SeriesLabelPosition::UpperLeft)?;
    area.present().map_err(|error| failed(&error))?;
    Ok(true)
}

fn legend<'a, C: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, C>,
    path: &Path,
    position: SeriesLabelPosition,
) -> anyhow::Result<()> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()
        .map_err(|error| anyhow!("{}: {error}", path.display()))
}
