"use strict";
(() => {
  // All text from the index reaches the page as text nodes, attributes of ours or CSS numbers; never as markup.
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { axes, pictures, scores, items } = data;
  items.forEach((item, at) => { item.at = at; });
  const view = byId("view");
  const isNarrow = matchMedia("(max-width: 640px)");

  const make = (tag, options = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (value === undefined || value === null || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "text") element.textContent = value;
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  // --- chunks: parsed when something in them is needed

  const parsed = new Map();
  const chunk = (kind, number) => {
    const id = `${kind}-${number}`;
    if (!parsed.has(id)) {
      const element = byId(id);
      if (!element) return null; // the rest of the page is still loading
      parsed.set(id, JSON.parse(element.textContent));
    }
    return parsed.get(id);
  };
  const entry = (kind, index) => {
    const found = chunk(kind, Math.floor(index / data.chunk));
    return found ? found[index % data.chunk] : null;
  };
  const thumbnail = (index) => {
    const found = index >= 0 ? entry("thumbnails", index) : null;
    return found ? `data:image/webp;base64,${found}` : null;
  };
  const detailsOf = (item) => entry("details", item.at) || {};

  // --- state

  const state = {
    rows: data.layout[0], columns: data.layout[1], filters: axes.map(() => -1), picture: 0,
    sort: -1, descending: true, colour: scores.length ? 0 : -1, status: "", words: "", size: data.size, marked: [],
  };
  const isUsed = (axis) => axis === state.rows || axis === state.columns;
  const others = () => axes.map((_, axis) => axis).filter((axis) => !isUsed(axis));
  // With two axes chosen, one picture per cell is what can be compared: the others start with their first value.
  const resetFilters = () => {
    const several = state.rows >= 0 && state.columns >= 0;
    state.filters = axes.map((_, axis) => (isUsed(axis) || !several ? -1 : Math.max(0, state.filters[axis])));
  };
  resetFilters();

  const full = (axis, index) => (index < 0 ? "—" : axes[axis].full[index]);
  const short = (axis, index) => (index < 0 ? "—" : axes[axis].short[index]);
  const format = (number) => (Number.isInteger(number) && Math.abs(number) < 1e15 ? String(number) : String(Number(number.toPrecision(4))));

  const labelAxes = () => axes.map((_, axis) => axis).filter((axis) => !isUsed(axis) && state.filters[axis] < 0);
  // A long value speaks for itself; a short one needs the name of its axis.
  const valueLabel = (axis, index) => (full(axis, index).length > 12 ? short(axis, index) : `${axes[axis].name} ${short(axis, index)}`);
  const label = (item, some) => some.filter((axis) => item.a[axis] >= 0).map((axis) => valueLabel(axis, item.a[axis])).join(" · ");
  const describe = (item) => label(item, axes.map((_, axis) => axis)) || item.i;
  const haystacks = new Map();
  const haystack = (item) => {
    if (!haystacks.has(item)) {
      haystacks.set(item, [item.i, ...axes.map((_, axis) => (item.a[axis] < 0 ? "" : full(axis, item.a[axis]))), ...item.t, item.q].join("\n").toLowerCase());
    }
    return haystacks.get(item);
  };
  const matching = () => {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    return items.filter((item) =>
      (!state.status || item.s === state.status) &&
      state.filters.every((value, axis) => value < 0 || item.a[axis] === value) &&
      words.every((word) => haystack(item).includes(word)));
  };
  const scoreOf = (item) => (state.sort < 0 ? null : item.v[state.sort]);
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return state.descending ? b - a : a - b;
  };
  const mean = (numbers) => {
    const present = numbers.filter((number) => number !== null);
    return present.length ? present.reduce((a, b) => a + b, 0) / present.length : null;
  };

  // --- colours of scores: cividis, which reads the same with every kind of colour vision

  const stops = [[0, 32, 77], [0, 59, 111], [60, 77, 110], [97, 97, 111], [124, 123, 120], [154, 150, 118], [187, 178, 105], [222, 208, 83], [255, 234, 70]];
  const colourAt = (share) => {
    const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return `rgb(${stops[low].map((channel, i) => Math.round(channel + (stops[low + 1][i] - channel) * (at - low))).join(" ")})`;
  };
  let range = null;
  const measureRange = (shown) => {
    const numbers = state.colour < 0 ? [] : shown.map((item) => item.v[state.colour]).filter((number) => number !== null);
    range = numbers.length ? [numbers.reduce((a, b) => Math.min(a, b)), numbers.reduce((a, b) => Math.max(a, b))] : null;
    const legend = byId("legend");
    legend.hidden = !range;
    if (!range) return;
    const bar = make("i");
    bar.style.background = `linear-gradient(to right, ${stops.map((stop) => `rgb(${stop.join(" ")})`).join(", ")})`;
    legend.replaceChildren(make("span", { text: `${scores[state.colour]}: ${format(range[0])}` }), bar, make("span", { text: format(range[1]) }));
  };

  // --- cards

  const pending = new WeakMap();
  let waiting = new Set();
  const load = (image) => {
    const [index, url] = pending.get(image);
    const source = index >= 0 ? thumbnail(index) : url;
    if (source) {
      image.src = source;
      waiting.delete(image);
    } else waiting.add(image);
  };
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      load(target);
    }
  }, { rootMargin: "600px", scrollMargin: "600px" });
  document.addEventListener("DOMContentLoaded", () => [...waiting].forEach(load));

  const pictureOf = (item, output = state.picture) => item.p[output] || null;
  const blank = (item, picture) => {
    const failed = item.s !== "done";
    const reason = failed ? item.e : picture ? picture[4] : "no picture";
    return make("span", { class: `picture none${item.s === "failed" ? " failed" : ""}` },
      make("b", { text: failed ? item.s : "" }), make("span", { text: reason, dir: "auto" }));
  };
  const card = (item, role) => {
    const picture = pictureOf(item);
    let shown;
    if (picture && (picture[0] >= 0 || (picture[1] && !picture[4]))) {
      const image = make("img", { alt: "", width: picture[2] || 1, height: picture[3] || 1, decoding: "async" });
      pending.set(image, picture);
      observer.observe(image);
      shown = make("span", { class: "picture" }, image);
    } else shown = blank(item, picture);
    const caption = make("span", { class: "caption" });
    const text = label(item, labelAxes());
    if (text) caption.append(make("span", { text, dir: "auto" }));
    if (!axes.length) caption.append(make("span", { text: item.i, dir: "auto" }));
    const numbers = scores.map((name, i) => (item.v[i] === null ? null : `${name} ${format(item.v[i])}`)).filter(Boolean);
    if (numbers.length) caption.append(make("span", { class: "numbers", text: numbers.join(" · ") }));
    for (const text of item.t) if (text) caption.append(make("span", { class: "quiet", text, dir: "auto" }));
    if (item.c) caption.append(make("span", { class: "quiet numbers", text: item.c }));
    if (item.k) caption.append(make("span", { class: "note", text: item.k === 1 ? "1 note" : `${item.k} notes` }));
    const score = state.colour < 0 ? null : item.v[state.colour];
    let strip = null;
    if (range && score !== null) {
      strip = make("span", { class: "strip" });
      strip.style.background = colourAt(range[1] > range[0] ? (score - range[0]) / (range[1] - range[0]) : .5);
    }
    const name = [describe(item), ...numbers, ...item.t.filter(Boolean), item.s === "done" ? "" : item.s].filter(Boolean).join(", ");
    const marked = state.marked.includes(item);
    return make("div", { class: `card${marked ? " marked" : ""}`, role },
      make("button", { type: "button", class: "open", tabindex: "-1", "data-item": item.at, "aria-label": name, "aria-haspopup": "dialog", "aria-keyshortcuts": "c" }, shown, strip, caption),
      make("button", { type: "button", class: "pick", tabindex: "-1", "data-pick": item.at, "aria-pressed": String(marked), "aria-label": `Compare ${describe(item)}`, title: "Mark for comparison (c)", text: "⇄" }));
  };

  // --- layout

  let order = [];
  const groups = (shown, axis) => {
    if (axis < 0) return [[-1, shown]];
    const found = new Map();
    for (const item of shown) {
      if (!found.has(item.a[axis])) found.set(item.a[axis], []);
      found.get(item.a[axis]).push(item);
    }
    const sorted = [...found].sort(([a], [b]) => (a < 0) - (b < 0) || a - b);
    if (state.sort >= 0) {
      const means = new Map(sorted.map(([value, group]) => [value, mean(group.map(scoreOf))]));
      sorted.sort(([a], [b]) => compare(means.get(a), means.get(b)));
    }
    return sorted;
  };
  const head = (role, axis, value, name) => make("div", { class: name, role, "data-axis": axes[axis].name, title: full(axis, value) }, make("span", { text: short(axis, value), dir: "auto" }));

  const gridOf = (shown) => {
    const columns = groups(shown, state.columns).map(([value]) => value);
    const rows = groups(shown, state.rows);
    const most = Math.max(1, ...rows.map(([, group]) => Math.max(...groups(group, state.columns).map(([, cell]) => cell.length))));
    const across = state.columns < 0 ? 0 : Math.min(3, Math.ceil(Math.sqrt(most)));
    const width = across ? `calc(var(--size) * ${across} + .4rem * ${across - 1})` : "minmax(0, 1fr)";
    const grid = make("div", { class: "grid", role: "grid", "aria-rowcount": rows.length + 1, "aria-colcount": columns.length + 1, "aria-label": "Pictures by axes" });
    grid.style.setProperty("--template", `${state.rows < 0 ? "" : "var(--head) "}repeat(${columns.length}, ${width})`);
    if (!across) grid.style.width = "auto";
    if (state.columns >= 0) {
      const corner = state.rows < 0 ? null : make("div", { class: "corner", role: "columnheader" }, make("span", { text: `${axes[state.rows].name} ↓ ${axes[state.columns].name} →`, dir: "auto" }));
      grid.append(make("div", { class: "row columns", role: "row" }, corner, ...columns.map((value) => head("columnheader", state.columns, value, "column-head"))));
    }
    for (const [value, group] of rows) {
      const cells = new Map(columns.map((column) => [column, []]));
      for (const item of group) cells.get(state.columns < 0 ? -1 : item.a[state.columns]).push(item);
      const row = make("div", { class: "row", role: "row" }, state.rows < 0 ? null : head("rowheader", state.rows, value, "row-head"));
      const inner = make("div", { class: "cells", role: "presentation" });
      for (const [column, cell] of cells) {
        const name = state.columns < 0 ? "" : valueLabel(state.columns, column);
        inner.append(make("div", { class: "cell", role: "gridcell", "data-column": name }, ...cell.map((item) => card(item))));
        order.push(...cell);
      }
      row.append(inner);
      grid.append(row);
    }
    return grid;
  };

  const render = () => {
    observer.disconnect();
    waiting = new Set();
    let shown = matching();
    if (state.sort >= 0) shown = [...shown].sort((a, b) => compare(scoreOf(a), scoreOf(b)));
    measureRange(shown);
    order = [];
    document.documentElement.style.setProperty("--size", `${state.size}px`);
    if (!shown.length) view.replaceChildren(make("p", { class: "empty", text: items.length ? "No item matches the filters." : "There are no items." }));
    else if (state.rows < 0 && state.columns < 0) {
      order = shown;
      view.replaceChildren(make("div", { class: "flow", role: "list", "aria-label": "Pictures" }, ...shown.map((item) => card(item, "listitem"))));
    } else view.replaceChildren(gridOf(shown));
    const first = view.querySelector(".open");
    if (first) first.tabIndex = 0;
    summarise(shown.length);
    renderMarks();
  };

  const summarise = (count) => {
    const summary = byId("summary");
    const all = data.total === items.length ? `${items.length.toLocaleString("en")} items` : `the first ${items.length.toLocaleString("en")} of ${data.total.toLocaleString("en")} items`;
    summary.textContent = items.length === 1 ? "1 item" : all;
    for (const status of data.statuses.filter((status) => status !== "done")) {
      const number = items.filter((item) => item.s === status).length;
      summary.append(" · ", make("button", { type: "button", text: `${number.toLocaleString("en")} ${status}`, onclick: () => {
        Object.assign(state, { status, rows: -1, columns: -1, words: "" });
        state.filters = axes.map(() => -1);
        renderControls();
        render();
      } }));
    }
    if (data.missing) summary.append(` · ${data.missing.toLocaleString("en")} ${data.missing === 1 ? "picture" : "pictures"} missing`);
    if (count !== items.length) summary.append(` · showing ${count.toLocaleString("en")}`);
  };

  // --- controls

  const field = (label, ...inner) => make(inner.length > 1 ? "div" : "label", { class: "field" }, make("span", { text: label, title: label, dir: "auto" }), inner.length > 1 ? make("span", { class: "pair" }, ...inner) : inner[0]);
  const choose = (options, value, change, label) => {
    const list = make("select", { "aria-label": label, onchange: (event) => change(event.target.value) }, ...options.map(([key, text]) => make("option", { value: key, text: text.length > 80 ? `${text.slice(0, 79)}…` : text })));
    list.value = String(value);
    return list;
  };
  const select = (label, options, value, change) => field(label, choose(options, value, change));
  const changed = (key, number = true) => (value) => {
    state[key] = number ? Number(value) : value;
    render();
  };
  const renderControls = () => {
    const form = byId("controls");
    const names = axes.map((axis, i) => [i, axis.name]);
    const chooseAxis = (key, other) => (value) => {
      const chosen = Number(value);
      if (chosen >= 0 && chosen === state[other]) state[other] = state[key];
      state[key] = chosen;
      resetFilters();
      renderControls();
      render();
      view.scrollTo(0, 0);
    };
    const fields = [];
    if (axes.length) {
      fields.push(select("rows", [[-1, "—"], ...names], state.rows, chooseAxis("rows", "columns")));
      fields.push(select("columns", [[-1, "—"], ...names], state.columns, chooseAxis("columns", "rows")));
    }
    for (const axis of others()) {
      fields.push(select(axes[axis].name, [[-1, "all"], ...axes[axis].short.map((text, i) => [i, text])], state.filters[axis], (value) => {
        state.filters[axis] = Number(value);
        render();
      }));
    }
    if (pictures.length > 1) fields.push(select("picture", pictures.map((name, i) => [i, name]), state.picture, changed("picture")));
    if (scores.length) {
      const names = scores.map((name, i) => [i, name]);
      fields.push(field("sort by", choose([[-1, "index"], ...names], state.sort, changed("sort"), "sort by"),
        choose([["high", "high first"], ["low", "low first"]], state.descending ? "high" : "low", (value) => { state.descending = value === "high"; render(); }, "sort direction")));
      fields.push(select("colour by", [[-1, "—"], ...names], state.colour, changed("colour")));
    }
    if (data.statuses.length > 1) fields.push(select("status", [["", "all"], ...data.statuses.map((status) => [status, status])], state.status, changed("status", false)));
    const search = make("input", { type: "search", id: "search", "aria-keyshortcuts": "/", autocomplete: "off", spellcheck: "false", oninput: (event) => { state.words = event.target.value; clearTimeout(timer); timer = setTimeout(render, 150); } });
    search.value = state.words;
    fields.push(field("search", search));
    const size = make("input", { type: "range", min: 64, max: 512, step: 16, oninput: (event) => { state.size = Number(event.target.value); document.documentElement.style.setProperty("--size", `${state.size}px`); } });
    size.value = state.size;
    fields.push(field("thumbnail size", size));
    form.replaceChildren(...fields);
  };
  let timer = 0;
  byId("controls").addEventListener("submit", (event) => event.preventDefault());

  // --- one item

  const announce = (text) => { byId("announcer").textContent = text; };
  const closeButton = () => make("button", { type: "button", class: "close", "aria-label": "Close", title: "Close (Esc)", text: "✕" });
  const list = (pairs, mono = false) => make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", { text: name, dir: "auto" }), make("dd", { text: value === "" ? "(empty)" : value, dir: "auto", class: value === "" ? "hint" : mono ? "mono" : null })]));
  const section = (title, ...children) => [make("h3", { text: title }), ...children];

  const largeImage = (item, output, note) => {
    const picture = pictureOf(item, output);
    const image = make("img", { alt: `${pictures[output] || "picture"} of ${describe(item)}`, decoding: "async" });
    const small = picture ? thumbnail(picture[0]) : null;
    image.addEventListener("load", () => image.classList.toggle("coarse", image.naturalWidth * 2 <= image.clientWidth));
    image.addEventListener("error", () => {
      if (small && image.getAttribute("src") !== small) {
        image.src = small;
        if (note) note.textContent = "The file cannot be shown or is not beside the report; this is its thumbnail.";
      }
    });
    if (picture && picture[1] && picture[5]) image.src = picture[1];
    else if (small) {
      image.src = small;
      if (note) note.textContent = picture[4] ? `${picture[4]}; this is its thumbnail.` : "Browsers do not show this format; this is its thumbnail.";
    } else return null;
    return image;
  };

  const copy = async (text, button) => {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      const area = make("textarea");
      area.value = text;
      button.parentElement.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = done ? "Copied" : "Copying failed: select the text";
    announce(button.textContent);
    setTimeout(() => { button.textContent = "Copy the command"; }, 2000);
  };

  let opened = null;
  let openedOutput = 0;
  const openItem = (item) => {
    if (opened !== item) openedOutput = item.p[state.picture] ? state.picture : Math.max(0, Object.keys(item.p)[0] || 0);
    opened = item;
    const dialog = byId("detail");
    const details = detailsOf(item);
    const note = make("p", { class: "hint" });
    const image = largeImage(item, openedOutput, note);
    const large = make("div", { class: "large" }, image || blank(item, pictureOf(item, openedOutput)));
    const at = order.indexOf(item);
    const stage = make("div", { class: "stage" }, large);
    const tools = make("div", { class: "strip-of" });
    if (image) tools.append(make("button", { type: "button", "aria-pressed": "false", text: "Actual size", onclick: (event) => {
      const actual = large.classList.toggle("actual");
      event.target.setAttribute("aria-pressed", String(actual));
    } }));
    const own = Object.keys(item.p).map(Number);
    if (own.length > 1) for (const output of own) {
      const small = thumbnail(item.p[output][0]);
      tools.append(make("button", { type: "button", "aria-pressed": String(output === openedOutput), title: pictures[output], onclick: () => { openedOutput = output; openItem(item); } },
        small ? make("img", { src: small, alt: pictures[output] }) : pictures[output]));
    }
    stage.append(tools);
    stage.append(note);

    const facts = make("div", { class: "facts" });
    if (item.s !== "done") facts.append(make("p", { class: item.s === "failed" ? "problem" : "caution", dir: "auto", text: `${item.s}${details.error ? `: ${details.error}` : ""}` }));
    for (const text of details.notes || []) facts.append(make("p", { class: "caution", dir: "auto", text }));
    for (const picture of Object.values(item.p)) if (picture[4] && item.s === "done") facts.append(make("p", { class: "caution", dir: "auto", text: `${picture[6]}: ${picture[4]}` }));
    const varying = axes.map((axis, i) => [axis.name, item.a[i]]).filter(([, value]) => value >= 0).map(([name, value]) => [name, axes.find((axis) => axis.name === name).full[value]]);
    if (varying.length) facts.append(...section("What varies", list(varying)));
    if (details.values?.length) facts.append(...section("Outputs", list(details.values)));
    const inputs = [...(details.inputs || []), ...data.common].filter(([name]) => !varying.some(([other]) => other === name));
    if (inputs.length) facts.append(...section("Inputs", list(inputs)));
    if (details.seeds?.length) facts.append(...section("Seeds", list(details.seeds)));
    if (details.files?.length) facts.append(...section("Files", make("dl", {}, ...details.files.flatMap(([name, path, url]) => [make("dt", { text: name, dir: "auto" }), make("dd", { dir: "auto" }, url ? make("a", { href: url, text: path }) : path)]))));
    if (details.command) {
      facts.append(...section("Make this one again", make("pre", { class: "command", tabindex: "0", "aria-label": "command", text: details.command })));
      if (details.warning) facts.append(make("p", { class: "caution", text: details.warning }));
      if (details.copy) {
        const button = make("button", { type: "button", class: "copy", "aria-keyshortcuts": "y", text: "Copy the command" });
        button.addEventListener("click", () => copy(details.command, button));
        facts.append(button);
      }
    }
    if (details.keys?.length) facts.append(make("details", {}, make("summary", { text: "Provenance" }), list(details.keys, true)));
    if (details.cut) facts.append(make("p", { class: "hint", text: "The report is too large to hold everything about this item; index.jsonl has it." }));

    const step = (by) => { const next = order[order.indexOf(opened) + by]; if (next) openItem(next); };
    const turn = (text, label, by) => make("button", { type: "button", "aria-label": label, title: label, text, disabled: at < 0 || !order[at + by], onclick: () => step(by) });
    const focused = dialog.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    dialog.replaceChildren(
      make("div", { class: "bar" }, make("h2", { id: "detail-title", text: describe(item), dir: "auto" }),
        turn("←", "Previous", -1), turn("→", "Next", 1),
        make("button", { type: "button", "aria-pressed": String(state.marked.includes(item)), "aria-label": "Compare", title: "Mark for comparison (c)", text: "⇄", onclick: () => { mark(item); if (dialog.open && !byId("comparison").open) openItem(item); } }),
        closeButton()),
      make("div", { class: "split" }, stage, facts));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    const again = focused && [...dialog.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === focused && !button.disabled);
    (again || dialog.querySelector(".close")).focus();
  };
  byId("detail").addEventListener("close", () => { if (opened) focusItem(opened); });

  // --- comparison

  const mark = (item) => {
    state.marked = state.marked.includes(item) ? state.marked.filter((other) => other !== item) : [...state.marked, item].slice(-2);
    for (const button of view.querySelectorAll(".pick")) {
      const on = state.marked.includes(items[button.dataset.pick]);
      button.setAttribute("aria-pressed", String(on));
      button.parentElement.classList.toggle("marked", on);
    }
    renderMarks();
    if (state.marked.includes(item) && state.marked.length === 2) openComparison();
    else announce(state.marked.length ? "marked; mark another one to compare them" : "not marked");
  };
  const renderMarks = () => {
    const bar = byId("marks");
    bar.hidden = !state.marked.length;
    if (bar.hidden) return;
    const both = state.marked.length === 2;
    bar.replaceChildren(make("span", { text: both ? state.marked.map(describe).join("  ⇄  ") : `${describe(state.marked[0])}: mark another one to compare`, dir: "auto" }),
      ...(both ? [make("button", { type: "button", class: "primary", text: "Compare", onclick: openComparison })] : []),
      make("button", { type: "button", text: "Clear", onclick: () => { state.marked = []; render(); } }));
  };

  let mode = "side";
  const openComparison = () => {
    const [a, b] = state.marked;
    const dialog = byId("comparison");
    const stage = make("div", { class: "stage" });
    const imageOf = (item) => largeImage(item, item.p[state.picture] ? state.picture : Math.max(0, Object.keys(item.p)[0] || 0), null) || blank(item, pictureOf(item));
    const draw = () => {
      if (mode === "side") {
        stage.replaceChildren(make("div", { class: "side" }, ...[a, b].map((item, i) => make("figure", {}, make("figcaption", { text: "AB"[i] }), imageOf(item)))));
        return;
      }
      const over = make("div", { class: `over ${mode === "slide" ? "slide" : "difference"}` }, imageOf(a), imageOf(b));
      if (mode === "slide") {
        const slider = make("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": "How much of A is shown, in percent" });
        slider.value = 50;
        slider.addEventListener("input", () => over.style.setProperty("--cut", `${slider.value}%`));
        over.append(slider, make("i"));
      }
      stage.replaceChildren(over, mode === "slide" ? make("div", { class: "ends" }, make("span", { text: "A" }), make("span", { text: "B" })) : make("p", { class: "hint", text: "Black where both pictures are equal." }));
    };
    const choice = (value, text) => {
      const input = make("input", { type: "radio", name: "mode", value, checked: mode === value, onchange: () => { mode = value; draw(); } });
      return make("label", {}, input, text);
    };
    const facts = (item) => {
      const details = detailsOf(item);
      return new Map([["status", item.s], ...axes.map((axis, i) => [axis.name, item.a[i] < 0 ? "—" : axis.full[item.a[i]]]), ...(details.inputs || []), ...(details.seeds || []), ...(details.values || [])]);
    };
    const [left, right] = [facts(a), facts(b)];
    const differing = [...new Set([...left.keys(), ...right.keys()])].filter((name) => left.get(name) !== right.get(name));
    const body = differing.length
      ? make("table", {}, make("thead", {}, make("tr", {}, ...["", "A", "B"].map((text) => make("th", { scope: "col", text })))),
        make("tbody", {}, ...differing.map((name) => make("tr", {}, make("th", { scope: "row", text: name, dir: "auto" }), ...[left, right].map((side) => make("td", { text: side.get(name) ?? "—", dir: "auto" }))))))
      : make("p", { class: "hint", text: "Nothing that the index says differs." });
    dialog.replaceChildren(
      make("div", { class: "bar" }, make("h2", { id: "comparison-title", text: "Comparison" }),
        make("fieldset", { class: "modes", "aria-label": "How to compare" }, choice("side", "side by side"), choice("slide", "slider"), choice("difference", "difference")),
        make("button", { type: "button", text: "Swap", onclick: () => { state.marked.reverse(); openComparison(); } }), closeButton()),
      stage, make("div", { class: "scroll" }, body));
    draw();
    byId("detail").close();
    if (!dialog.open) dialog.showModal();
    dialog.querySelector(":checked").focus();
  };
  byId("comparison").addEventListener("close", () => { if (state.marked.length) focusItem(state.marked[state.marked.length - 1]); });

  // --- keyboard and pointer

  const focusItem = (item) => {
    const button = view.querySelector(`.open[data-item="${item.at}"]`);
    if (!button) return;
    for (const other of view.querySelectorAll('.open[tabindex="0"]')) other.tabIndex = -1;
    button.tabIndex = 0;
    button.focus();
    button.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  // The nearest card in the next line, by where the cards are: it depends on the width of the window.
  const vertical = (button, direction) => {
    const all = [...view.querySelectorAll(".open")];
    const from = button.getBoundingClientRect();
    const middle = (from.left + from.right) / 2;
    let best = null;
    let line = null;
    for (let i = all.indexOf(button) + direction; i >= 0 && i < all.length; i += direction) {
      const to = all[i].getBoundingClientRect();
      if (direction > 0 ? to.top < from.bottom - 4 : to.bottom > from.top + 4) continue;
      if (line !== null && Math.abs(to.top - line) > 4) break;
      line = to.top;
      const away = Math.abs((to.left + to.right) / 2 - middle);
      if (!best || away < best[0]) best = [away, all[i]];
    }
    return best && items[best[1].dataset.item];
  };
  view.addEventListener("click", (event) => {
    const pick = event.target.closest(".pick");
    const open = event.target.closest(".open");
    if (pick) mark(items[pick.dataset.pick]);
    else if (open) openItem(items[open.dataset.item]);
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest(".close")) event.target.closest("dialog").close();
    else if (event.target.tagName === "DIALOG") event.target.close(); // the backdrop
  });
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    const button = event.target.closest(".open");
    const item = button ? items[button.dataset.item] : null;
    let used = true;
    if (byId("detail").open) {
      const at = order.indexOf(opened);
      const next = { ArrowLeft: order[at - 1], ArrowRight: order[at + 1] }[event.key];
      if (event.key === "c") { mark(opened); if (byId("detail").open) openItem(opened); }
      else if (event.key === "y") byId("detail").querySelector(".copy")?.click();
      else if (next && at >= 0 && !event.target.closest("pre")) openItem(next);
      else used = false;
    } else if (document.querySelector("dialog[open]")) used = false;
    else if (event.key === "/") byId("search").focus();
    else if (event.key === "?") byId("help").showModal();
    else if (event.key === "Escape" && state.marked.length) { state.marked = []; render(); }
    else if (item) {
      const at = order.indexOf(item);
      const next = { ArrowLeft: () => order[at - 1], ArrowRight: () => order[at + 1], Home: () => order[0], End: () => order[order.length - 1], ArrowUp: () => vertical(button, -1), ArrowDown: () => vertical(button, 1) }[event.key];
      if (next) { const to = next(); if (to) focusItem(to); }
      else if (event.key === "c") mark(item);
      else used = false;
    } else if (event.key === "ArrowDown" && (event.target === document.body || event.target === view) && order.length) focusItem(order[0]);
    else used = false;
    if (used) event.preventDefault();
  });

  if (isNarrow.matches) byId("options").open = false;
  if (isNarrow.matches && state.size > 160) state.size = 160;
  renderControls();
  render();
})();
