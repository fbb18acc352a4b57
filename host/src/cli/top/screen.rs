//! What `sluicegate top` shows: a line about all flows, a table of them in some order, and keys.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

use indicatif::BinaryBytes;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table, TableState};

use super::super::ctl::{self, HEAD, UP};

/// Columns of the table: those of the list, and two rates.
const COLUMNS: usize = HEAD.len() + 2;

/// What is first in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Order {
    #[default]
    Rate,
    Bytes,
    Youngest,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Rate => Self::Bytes,
            Self::Bytes => Self::Youngest,
            Self::Youngest => Self::Rate,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Bytes => "bytes",
            Self::Youngest => "youngest",
        }
    }
}

/// A flow, and the bytes a second that it moves: up and down.
struct Rated {
    row: ctl::Row,
    rates: [u64; 2],
}

/// The screen.
#[derive(Default)]
pub(super) struct Screen {
    /// What each flow had moved at the last look, and when that was.
    moved: HashMap<u64, [u64; 2]>,
    at: Option<Instant>,
    flows: Vec<Rated>,
    order: Order,
    table: TableState,
    /// Flows that fit at the last drawing.
    page: u16,
}

impl Screen {
    /// Takes `flows` as they are at `now`.
    pub(super) fn look(&mut self, flows: &ctl::Flows, now: Instant) {
        let passed = self.at.map(|at| now.saturating_duration_since(at));
        let over = passed.filter(|passed| !passed.is_zero()).map(|passed| passed.as_micros());
        let moved = &self.moved;
        let rated = |row: ctl::Row| {
            let before = moved.get(&row.id).copied().unwrap_or(row.moved);
            let rates = [0, 1].map(|way| {
                let bytes = u128::from(row.moved[way].saturating_sub(before[way]));
                let per_s = over.map_or(0, |over| bytes * 1_000_000 / over.max(1));
                u64::try_from(per_s).unwrap_or(u64::MAX)
            });
            Rated { row, rates }
        };
        self.flows = flows.rows().into_iter().map(rated).collect();
        self.moved = self.flows.iter().map(|flow| (flow.row.id, flow.row.moved)).collect();
        self.at = Some(now);
        self.sort();
    }

    /// Puts the table in the next order.
    pub(super) fn turn_order(&mut self) {
        self.order = self.order.next();
        self.sort();
    }

    fn sort(&mut self) {
        let order = self.order;
        let sum = |ways: [u64; 2]| ways[0].saturating_add(ways[1]);
        self.flows.sort_by_key(|Rated { row, rates }| match order {
            Order::Rate => (Reverse(sum(*rates)), row.id),
            Order::Bytes => (Reverse(sum(row.moved)), row.id),
            Order::Youngest => (Reverse(u64::MAX - row.age_ms), row.id),
        });
    }

    /// Scrolls by so many flows.
    pub(super) fn scroll(&mut self, by: isize) {
        let last = self.flows.len().saturating_sub(1);
        let offset = self.table.offset_mut();
        *offset = offset.saturating_add_signed(by).min(last);
    }

    /// Scrolls by so many screens.
    pub(super) fn scroll_pages(&mut self, by: isize) {
        self.scroll(by.saturating_mul(self.page.max(1).cast_signed().into()));
    }

    /// Draws it.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let rows = [Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)];
        let [top, middle, bottom] = Layout::vertical(rows).areas(frame.area());
        let all = |way: usize| self.flows.iter().map(|flow| flow.rates[way]).sum();
        let (up, down) = (per_second(all(0)), per_second(all(1)));
        let about = format!("{} flows, {up} up, {down} down", self.flows.len());
        frame.render_widget(Line::from(about).bold(), top);
        self.page = middle.height.saturating_sub(1);
        let heads = HEAD.into_iter().chain(["UP/S", "DOWN/S"]);
        let mut widths: [u16; COLUMNS] = [0; COLUMNS];
        let head = cells(heads.map(str::to_owned), &mut widths).bold();
        let cells: Vec<_> = self.flows.iter().map(|flow| flow.cells(&mut widths)).collect();
        let table = Table::new(cells, widths.map(Constraint::Length)).header(head);
        frame.render_stateful_widget(table.column_spacing(2), middle, &mut self.table);
        let keys = format!("q quit   s order: {}   \u{2191}\u{2193} scroll", self.order.name());
        frame.render_widget(Line::from(keys).dim(), bottom);
    }
}

impl Rated {
    fn cells(&self, widths: &mut [u16; COLUMNS]) -> Row<'static> {
        let rates = self.rates.map(per_second);
        cells(self.row.cells.clone().into_iter().chain(rates), widths)
    }
}

/// A line of the table; `widths` learns how wide its cells are.
fn cells(texts: impl Iterator<Item = String>, widths: &mut [u16; COLUMNS]) -> Row<'static> {
    let cells = texts.enumerate().zip(widths).map(|((at, text), width)| {
        let line = Line::from(text);
        *width = (*width).max(u16::try_from(line.width()).unwrap_or(u16::MAX));
        Cell::from(if at < UP { line } else { line.right_aligned() })
    });
    Row::new(cells.collect::<Vec<_>>())
}

fn per_second(bytes: u64) -> String {
    format!("{}/s", BinaryBytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::now;
    use super::*;

    /// Flows 1 to 9, of which the second has sent `up` bytes and the others one each.
    fn flows(up: u64) -> ctl::Flows {
        let flow = |id: u64| {
            let up = if id == 2 { up } else { 1 };
            format!(
                r#"{{"id": {id}, "protocol": "tcp", "direction": "egress", "name": null,
                "guest": "100.96.0.2:1", "peer": "1.1.1.{id}:443", "state": "open",
                "by": "default", "rule": null, "age_ms": {age}, "from_guest_bytes": {up},
                "to_guest_bytes": 0}}"#,
                age = 1000 * (10 - id),
            )
        };
        let flows: Vec<_> = (1..=9).map(flow).collect();
        ctl::Flows::read(format!(r#"{{"flows": [{}]}}"#, flows.join(",")).as_bytes()).unwrap()
    }

    /// The lines that a terminal of 120 by 7 shows.
    fn shown(screen: &mut Screen) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(120, 7)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let cells = terminal.backend().buffer().content();
        cells.chunks(120).map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect()
    }

    fn peers(screen: &mut Screen) -> Vec<String> {
        let lines = shown(screen);
        let words = lines[2..6].iter().filter_map(|line| line.split_whitespace().nth(4));
        words.map(str::to_owned).collect()
    }

    #[test]
    fn the_busiest_is_first_and_rates_are_by_the_time_between_two_looks() {
        let mut screen = Screen::default();
        let began = now();
        screen.look(&flows(0), began);
        let first = shown(&mut screen);
        assert!(first[0].starts_with("9 flows, 0 B/s up, 0 B/s down"), "{first:?}");
        assert!(first[2].contains("1.1.1.1:443"), "{first:?}");
        screen.look(&flows(4096), began + Duration::from_secs(2));
        let second = shown(&mut screen);
        assert!(second[0].starts_with("9 flows, 2.00 KiB/s up, 0 B/s down"), "{second:?}");
        assert!(second[1].contains("FLOW") && second[1].contains("UP/S"), "{second:?}");
        assert!(second[2].contains("1.1.1.2:443") && second[2].contains("2.00 KiB/s"));
        assert!(second[6].contains("order: rate"), "{second:?}");
    }

    #[test]
    fn the_table_scrolls_as_far_as_there_are_flows_and_takes_other_orders() {
        let mut screen = Screen::default();
        screen.look(&flows(0), now());
        let of = |last: [u8; 4]| last.map(|last| format!("1.1.1.{last}:443")).to_vec();
        assert_eq!(peers(&mut screen), of([1, 2, 3, 4]));
        screen.scroll(1);
        assert_eq!(peers(&mut screen), of([2, 3, 4, 5]));
        screen.scroll_pages(1);
        assert_eq!(peers(&mut screen), of([6, 7, 8, 9]));
        screen.scroll_pages(9);
        assert_eq!(peers(&mut screen), ["1.1.1.9:443"]);
        screen.scroll(isize::MIN);
        screen.turn_order();
        assert_eq!(peers(&mut screen), of([1, 3, 4, 5]), "most bytes first");
        screen.turn_order();
        assert_eq!(peers(&mut screen), of([9, 8, 7, 6]), "the youngest first");
        screen.turn_order();
        assert_eq!(screen.order, Order::Rate);
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        for (columns, rows) in [(1, 1), (2, 2), (20, 3), (300, 100)] {
            let mut screen = Screen::default();
            screen.look(&flows(0), now());
            let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
            terminal.draw(|frame| screen.draw(frame)).unwrap();
        }
    }
}
