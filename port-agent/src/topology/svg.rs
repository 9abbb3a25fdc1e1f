//! The picture as an SVG: generic fonts, no scripts, nothing loaded from anywhere.
//!
//! Uplinks on the left, a card for each bridge, in it a lane for each VLAN, in that a chip for each
//! interface of a container, coloured by runtime. Texts are cut where they would not fit, by an
//! estimate: nobody knows the reader's fonts; the whole text is in the chip's tooltip.

use std::fmt::Write as _;

use super::picture::{Bridge, Lane, Picture, Plug};

const MARGIN: u32 = 32;
const TITLE: u32 = 44;
const LEFT: u32 = 230;
const GAP: u32 = 84;
const CHIP: (u32, u32) = (218, 62);
const SPACE: u32 = 12;
const COLUMNS: u32 = 4;
const PAD: u32 = 20;
const CARD_HEAD: u32 = 62;
const LANE_HEAD: u32 = 34;
const LEGEND: u32 = 48;

/// Width of a card's inside: its chips beside each other.
const INSIDE: u32 = COLUMNS * CHIP.0 + (COLUMNS - 1) * SPACE;
const CARD: u32 = INSIDE + 2 * (PAD + SPACE);
const WIDTH: u32 = MARGIN + LEFT + GAP + CARD + MARGIN;

const STYLE: &str = "
  text { font-family: system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: #0f172a }
  .page { fill: #f8fafc }
  .title { font-size: 22px; font-weight: 600 }
  .name { font-size: 16px; font-weight: 600 }
  .note { font-size: 12px; fill: #475569 }
  .lane { font-size: 13px; font-weight: 600; fill: #334155 }
  .card { fill: #ffffff; stroke: #cbd5e1; stroke-width: 1.5 }
  .down { stroke: #dc2626; stroke-dasharray: 6 4 }
  .road { fill: #f1f5f9 }
  .wire { fill: none; stroke: #64748b; stroke-width: 3; stroke-linecap: round }
  .cut { stroke: #dc2626; stroke-dasharray: 2 8 }
  .jack { fill: #64748b }
  .uplink { fill: #e2e8f0; stroke: #64748b; stroke-width: 1.5 }
  .chip { stroke-width: 1.5 }
  .what { font-size: 13px; font-weight: 600 }
  .small { font-size: 11px; fill: #334155 }
  .cni { fill: #ede9fe; stroke: #7c3aed }
  .docker { fill: #e0f2fe; stroke: #0284c7 }
  .podman { fill: #fae8ff; stroke: #a21caf }
  .host { fill: #ecfccb; stroke: #4d7c0f }
  .trouble { fill: #fee2e2; stroke: #dc2626; stroke-dasharray: 5 3 }
  .bad { fill: #b91c1c }
";

/// The dark half of [`STYLE`], for readers that ask for it.
const DARK: &str = "
  @media (prefers-color-scheme: dark) {
    text { fill: #e2e8f0 }
    .page { fill: #0f172a }
    .card { fill: #1e293b; stroke: #475569 }
    .road { fill: #273449 }
    .note { fill: #94a3b8 }
    .lane { fill: #cbd5e1 }
    .uplink { fill: #334155 }
    .chip text, .chips text { fill: #0f172a }
    .chips .small { fill: #334155 }
    .down, .cut, .trouble { stroke: #f87171 }
  }
";

/// A file that is being drawn.
struct Sheet(String);

impl Sheet {
    /// One element, as it stands.
    fn put(&mut self, element: &str) {
        self.0.push_str(element);
        self.0.push('\n');
    }

    fn text(&mut self, (x, y): (u32, u32), class: &str, text: &str) {
        self.put(&format!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>", escaped(text)));
    }

    fn rect(&mut self, (x, y): (u32, u32), (width, height): (u32, u32), round: u32, class: &str) {
        self.put(&format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{round}\" class=\"{class}\"/>"
        ));
    }
}

pub(super) fn draw(picture: &Picture) -> String {
    let mut sheet = Sheet(String::new());
    let mut y = MARGIN + TITLE;
    let mut middles = Vec::new();
    let x = MARGIN + LEFT + GAP;
    for bridge in &picture.bridges {
        let height = height(bridge);
        card(&mut sheet, bridge, (x, y), height);
        middles.push(y + CARD_HEAD / 2);
        y += height + 28;
    }
    // As many uplinks as it takes, each as high up as its first bridge lets it.
    let mut free = MARGIN + TITLE;
    for (at, uplink) in picture.uplinks.iter().enumerate() {
        let height = 56 + 16 * lines(uplink.addresses.len());
        let ends: Vec<_> = picture
            .bridges
            .iter()
            .zip(&middles)
            .filter(|(bridge, _)| bridge.uplinks.contains(&at))
            .map(|(bridge, middle)| (bridge, *middle))
            .collect();
        let wish = ends.first().map_or(free, |(_, middle)| middle.saturating_sub(height / 2));
        let top = wish.max(free);
        let middle = top + height / 2;
        for (bridge, end) in ends {
            let works = bridge.state == "up" && uplink.state == "carrier";
            let class = if works { "wire" } else { "wire cut" };
            let (from, to) = (MARGIN + LEFT, x);
            let (near, far) = (from + GAP / 2, to - GAP / 2);
            sheet.put(&format!(
                "<path d=\"M{from} {middle} C{near} {middle} {far} {end} {to} {end}\" class=\"{class}\"/>"
            ));
            sheet.put(&format!("<circle cx=\"{to}\" cy=\"{end}\" r=\"6\" class=\"jack\"/>"));
        }
        let class = if uplink.state == "carrier" { "uplink" } else { "uplink down" };
        sheet.rect((MARGIN, top), (LEFT, height), 12, class);
        sheet.text((MARGIN + 16, top + 24), "name", &cut(&uplink.name, 18));
        let class = if uplink.state == "carrier" { "note" } else { "note bad" };
        sheet.text((MARGIN + 16, top + 42), class, &uplink.state);
        for (line, address) in (0..).zip(&uplink.addresses) {
            sheet.text((MARGIN + 16, top + 58 + 16 * line), "note", &cut(address, 32));
        }
        free = top + height + 16;
    }
    y = y.max(free + 12);
    legend(&mut sheet, picture, y);
    let total = y + LEGEND;
    let title = format!("{}: bridges and containers", picture.host);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {total}\" width=\"{WIDTH}\" height=\"{total}\" role=\"img\">\n"
    );
    // Writing to a String cannot fail.
    let _ = writeln!(svg, "<title>{}</title>", escaped(&title));
    let _ = writeln!(svg, "<style>{STYLE}{DARK}</style>");
    let _ = writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{total}\" class=\"page\"/>");
    let _ = writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{}\" class=\"title\">{}</text>",
        MARGIN + 24,
        escaped(&picture.host)
    );
    svg.push_str(&sheet.0);
    svg.push_str("</svg>\n");
    svg
}

fn card(sheet: &mut Sheet, bridge: &Bridge, (x, y): (u32, u32), height: u32) {
    let class = if bridge.state == "up" { "card" } else { "card down" };
    sheet.rect((x, y), (CARD, height), 16, class);
    sheet.text((x + PAD, y + 28), "name", &bridge.name);
    let mut notes = vec![bridge.mode.clone(), bridge.state.clone()];
    notes.extend(Some(bridge.datapath.clone()).filter(|kind| !kind.is_empty()));
    notes.extend(bridge.mtu.map(|mtu| format!("MTU {mtu}")));
    notes.extend(bridge.addresses.iter().cloned());
    let class = if bridge.state == "up" { "note" } else { "note bad" };
    sheet.text((x + PAD, y + 48), class, &cut(&notes.join(" · "), 130));
    let mut top = y + CARD_HEAD;
    for lane in &bridge.lanes {
        let height = lane_height(lane);
        sheet.rect((x + PAD, top), (CARD - 2 * PAD, height), 10, "road");
        sheet.text((x + PAD + SPACE, top + 22), "lane", &cut(&lane.name, 20));
        sheet.text((x + PAD + 160, top + 22), "note", &cut(&lane.notes.join(" · "), 120));
        sheet.put("<g class=\"chips\">");
        for (at, plug) in (0..).zip(&lane.plugs) {
            let column = x + PAD + SPACE + (at % COLUMNS) * (CHIP.0 + SPACE);
            let row = top + LANE_HEAD + (at / COLUMNS) * (CHIP.1 + SPACE);
            chip(sheet, plug, (column, row));
        }
        sheet.put("</g>");
        top += height + 10;
    }
}

fn chip(sheet: &mut Sheet, plug: &Plug, (x, y): (u32, u32)) {
    let addresses = plug.addresses.join(" ");
    let mut whole = vec![
        format!("{} ({})", plug.container, plug.runtime),
        format!("{} {addresses}", plug.ifname),
        format!("port {}", plug.port),
    ];
    whole.extend(plug.trouble.clone());
    sheet.put(&format!("<g><title>{}</title>", escaped(&whole.join(", "))));
    let class = if plug.trouble.is_some() { "trouble" } else { class(&plug.runtime) };
    sheet.rect((x, y), CHIP, 10, &format!("chip {class}"));
    sheet.text((x + 12, y + 20), "what", &cut(&plug.container, 25));
    let first = plug.addresses.first().map_or("no address", String::as_str);
    sheet.text((x + 12, y + 37), "small", &cut(&format!("{}  {first}", plug.ifname), 34));
    match (&plug.trouble, plug.addresses.get(1)) {
        (Some(trouble), _) => sheet.text((x + 12, y + 52), "small bad", &cut(trouble, 34)),
        (None, Some(second)) => sheet.text((x + 12, y + 52), "small", &cut(second, 34)),
        (None, None) => sheet.text((x + 12, y + 52), "small", &cut(&plug.port, 34)),
    }
    sheet.put("</g>");
}

fn legend(sheet: &mut Sheet, picture: &Picture, y: u32) {
    let mut x = MARGIN + LEFT + GAP;
    for runtime in picture.runtimes() {
        sheet.rect((x, y), (16, 16), 4, &format!("chip {}", class(runtime)));
        sheet.text((x + 24, y + 13), "note", &cut(runtime, 20));
        x += 120;
    }
}

/// The colour of a runtime.
fn class(runtime: &str) -> &'static str {
    match runtime {
        "cni" => "cni",
        "docker" => "docker",
        "podman" => "podman",
        _ => "host",
    }
}

fn height(bridge: &Bridge) -> u32 {
    let lanes: u32 = bridge.lanes.iter().map(|lane| lane_height(lane) + 10).sum();
    CARD_HEAD + lanes + 10
}

fn lane_height(lane: &Lane) -> u32 {
    let rows = lines(lane.plugs.len()).div_ceil(COLUMNS);
    LANE_HEAD + rows * (CHIP.1 + SPACE)
}

/// A count of things that are drawn; nobody looks at more.
fn lines(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX).min(1 << 20)
}

/// At most `most` characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Text as XML 1.0 has it, what its section 2.2 forbids left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
