"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const { layers, boxes, lines } = data;
  document.documentElement.classList.add("js");

  // Names come from strangers: text nodes are the only way in.
  const make = (tag, text = "", name = "") => {
    const node = document.createElement(tag);
    if (text !== "") node.textContent = text;
    if (name) node.className = name;
    return node;
  };
  const short = (text) => (text.length > 120 ? text.slice(0, 90) + "…" + text.slice(-29) : text);
  const boxOf = new Map(boxes.flatMap((inside, box) => inside.map((place) => [place, box])));
  const writer = new Map(layers.flatMap((layer, place) => layer.blobs.map((blob) => [blob.key, place])));

  // The view of the net

  const graph = $("graph"), view = $("view"), map = $("map"), here = $("here");
  const width = Number(graph.dataset.width), height = Number(graph.dataset.height);
  const { column } = data;
  const drawn = [...$("boxes").children], paths = [...$("lines").children];
  const at = { x: 0, y: 0, zoom: 1 };
  const size = () => [view.clientWidth, view.clientHeight];
  const FOOT = 26; // pixels that the hint takes
  const whole = () => Math.min(size()[0] / width, (size()[1] - FOOT) / height, 1.25);
  const limited = (zoom) => Math.min(Math.max(zoom, Math.min(whole(), 0.3) * 0.8), 3);

  const show = () => {
    const [w, h] = size().map((side) => side / at.zoom);
    // The picture never leaves the view.
    at.x = Math.min(Math.max(at.x, Math.min(0, width - w) - w / 3), Math.max(0, width - w) + w / 3);
    at.y = Math.min(Math.max(at.y, Math.min(0, height - h) - h / 3), Math.max(0, height - h) + h / 3);
    graph.setAttribute("viewBox", `${at.x} ${at.y} ${w} ${h}`);
    graph.classList.toggle("far", at.zoom < 0.5);
    graph.classList.toggle("farther", at.zoom < 0.2);
    map.classList.toggle("idle", w >= width * 0.98 && h >= height * 0.98);
    for (const [name, value] of [["x", at.x], ["y", at.y], ["width", w], ["height", h]]) here.setAttribute(name, value);
  };
  const centre = (x, y, zoom = at.zoom) => {
    at.zoom = limited(zoom);
    const [w, h] = size();
    at.x = x - w / at.zoom / 2;
    at.y = y - h / at.zoom / 2;
    show();
  };
  const fit = () => centre(width / 2, height / 2 + FOOT / 2 / whole(), whole());
  const start = () => {
    const [w] = size();
    if (whole() >= 0.3 || w > 700) return fit();
    // On a small screen: the head of the first column, as wide as the screen.
    at.zoom = limited(Math.min(w / column, 1));
    at.x = (column - w / at.zoom) / 2;
    at.y = 0;
    return show();
  };
  const zoomed = (factor, clientX, clientY) => {
    const frame = view.getBoundingClientRect();
    const [left, top] = [clientX - frame.left, clientY - frame.top];
    const [x, y] = [at.x + left / at.zoom, at.y + top / at.zoom];
    at.zoom = limited(at.zoom * factor);
    at.x = x - left / at.zoom;
    at.y = y - top / at.zoom;
    show();
  };
  const step = (factor) => {
    const frame = view.getBoundingClientRect();
    zoomed(factor, frame.left + frame.width / 2, frame.top + frame.height / 2);
  };
  $("in").onclick = () => step(1.4);
  $("out").onclick = () => step(1 / 1.4);
  $("fit").onclick = fit;
  graph.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomed(Math.exp(-event.deltaY * 0.004), event.clientX, event.clientY);
  }, { passive: false });
  graph.addEventListener("dblclick", (event) => zoomed(1.8, event.clientX, event.clientY));

  const fingers = new Map();
  let moved = 0;
  graph.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    moved = fingers.size > 1 ? 9 : 0;
  });
  graph.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const others = [...fingers.values()].filter((one) => one.pointerId !== event.pointerId);
    if (others.length) {
      const gap = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
      zoomed(gap(event) / Math.max(gap(before), 1), others[0].clientX, others[0].clientY);
    } else {
      moved += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
      if (moved > 4) {
        graph.setPointerCapture(event.pointerId);
        graph.classList.add("dragged");
        at.x -= (event.clientX - before.clientX) / at.zoom;
        at.y -= (event.clientY - before.clientY) / at.zoom;
        show();
      }
    }
    fingers.set(event.pointerId, event);
  });
  const lifted = (event) => {
    fingers.delete(event.pointerId);
    graph.classList.remove("dragged");
  };
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) graph.addEventListener(name, lifted);

  const steer = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const frame = map.getBoundingClientRect();
    const scale = Math.min(frame.width / width, frame.height / height);
    centre(
      width / 2 + (event.clientX - frame.left - frame.width / 2) / scale,
      height / 2 + (event.clientY - frame.top - frame.height / 2) / scale,
    );
  };
  map.addEventListener("pointerdown", steer);
  map.addEventListener("pointermove", steer);

  // The chosen box

  const details = $("details");
  let chosen = -1;

  const pairs = (entries) => {
    const list = make("dl", "", "pairs");
    for (const [name, values] of entries) {
      if (!values.length) continue;
      list.append(make("dt", name));
      const held = make("dd");
      for (const value of values) {
        const line = make("div");
        line.append(...[value].flat());
        held.append(line);
      }
      list.append(held);
    }
    return list;
  };
  const blobName = (key) => make("bdi", key, "id");
  const article = (layer, found) => {
    const part = make("article", "", found ? "found" : "");
    const title = make("h3");
    title.append(make("bdi", layer.name));
    const place = layer.line ? `, line ${layer.line} of the prototxt` : "";
    title.append(make("small", layer.type + place));
    const errors = layer.blobs.flatMap((blob) => blob.compared.map(([where, error, state, reason]) => {
      const said = data.states[state] + (reason ? ` (${reason})` : "");
      const many = layer.blobs.length > 1 ? [" ", blobName(blob.key)] : [];
      return [make("span", "", "mark " + state), ` ${where}: ${error}, ${said}`, ...many];
    }));
    part.append(title, pairs([
      ["Reads", layer.bottoms.map(([key, shape]) => [blobName(key), " " + shape])],
      ["Writes", layer.blobs.map((blob) => [blobName(blob.key), " " + blob.shape])],
      ["Error", errors.length ? errors : ["not compared"]],
      ["Weights", layer.weights.map(([key, shape, untrained]) =>
        [blobName(key), " " + shape, ...(untrained ? [" ", make("span", "untrained", "pill warn")] : [])])],
      ["Parameters", layer.count ? [`${layer.said[0]} (${layer.count.toLocaleString("en")})`] : []],
      ["MACs", layer.macs ? [`${layer.said[1]} (${layer.macs.toLocaleString("en")})`] : []],
      ...layer.parameters.map(([name, value]) => [name, [make("bdi", value)]]),
    ]));
    if (layer.code) part.append(make("pre", layer.code));
    return part;
  };
  const choose = (box, place = -1) => {
    if (chosen >= 0) drawn[chosen].classList.remove("chosen");
    const feeding = new Set(lines.filter((line) => line[1] === box).map((line) => line[0]).concat(box));
    for (const [index, path] of paths.entries()) {
      const [from, to] = lines[index];
      path.classList.toggle("near", from === box || to === box || (to === null && feeding.has(from)));
    }
    drawn.forEach((node, index) => node.setAttribute("tabindex", index === box ? 0 : -1));
    drawn[box].classList.add("chosen");
    chosen = box;
    const parts = boxes[box].map((inside) => article(layers[inside], inside === place));
    details.replaceChildren(...parts);
    details.scrollTop = 0;
    const wanted = boxes[box].indexOf(place);
    if (wanted > 0) details.scrollTop = parts[wanted].offsetTop - details.offsetTop - 10;
    $("told").textContent = "Shown: " + boxes[box].map((inside) => short(layers[inside].name)).join(", ");
  };
  const place = (box) => {
    const [, x, y] = drawn[box].getAttribute("transform").match(/\((\S+) (\S+)\)/);
    const rect = drawn[box].querySelector("rect");
    return [Number(x) + rect.width.baseVal.value / 2, Number(y) + rect.height.baseVal.value / 2];
  };
  const reveal = (box) => centre(...place(box), Math.max(at.zoom, 0.85));
  const goTo = (layer, scroll = true) => {
    choose(boxOf.get(layer), layer);
    reveal(boxOf.get(layer));
    if (scroll) view.scrollIntoView({ block: "center" });
  };

  graph.addEventListener("click", (event) => {
    const box = event.target.closest(".box");
    if (box && moved <= 4) choose(drawn.indexOf(box));
  });
  // Arrow keys: along the lines up and down, to the nearest box aside.
  const aside = (box, sign) => {
    const [x, y] = place(box);
    let best = box, least = Infinity;
    drawn.forEach((_, other) => {
      const [ox, oy] = place(other);
      const far = Math.abs(ox - x) + 3 * Math.abs(oy - y);
      if ((ox - x) * sign > 1 && far < least) [best, least] = [other, far];
    });
    return best;
  };
  graph.addEventListener("keydown", (event) => {
    const box = drawn.indexOf(event.target.closest(".box"));
    if (event.key === "+" || event.key === "=") step(1.4);
    else if (event.key === "-") step(1 / 1.4);
    else if (event.key === "0") fit();
    else if (box < 0) return;
    else if (event.key === "Enter" || event.key === " ") choose(box);
    else {
      const to = {
        ArrowDown: () => (lines.find((line) => line[0] === box && line[1] !== null) || [0, box])[1],
        ArrowUp: () => (lines.find((line) => line[1] === box) || [box])[0],
        ArrowLeft: () => aside(box, -1),
        ArrowRight: () => aside(box, 1),
        Home: () => 0,
        End: () => drawn.length - 1,
      }[event.key];
      if (!to) return;
      const next = to();
      drawn[box].setAttribute("tabindex", -1);
      drawn[next].setAttribute("tabindex", 0);
      reveal(next);
      drawn[next].focus({ preventScroll: true });
    }
    event.preventDefault();
  });

  // The search

  const find = $("find"), found = $("found");
  const MOST = 40;
  let active = -1;
  const options = () => [...found.children];
  const close = () => {
    found.hidden = true;
    active = -1;
    find.setAttribute("aria-expanded", "false");
    find.removeAttribute("aria-activedescendant");
  };
  const take = (option) => {
    if (!option || !option.dataset.place) return;
    close();
    goTo(Number(option.dataset.place), false);
  };
  const mark = (index) => {
    active = index;
    options().forEach((option, other) => option.setAttribute("aria-selected", other === index));
    const option = options()[index];
    if (!option) return;
    find.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  };
  const search = () => {
    const wanted = find.value.trim().toLowerCase();
    if (!wanted) return close();
    const rank = (layer) => {
      const name = layer.name.toLowerCase();
      if (name === wanted) return 0;
      if (name.startsWith(wanted)) return 1;
      if (name.includes(wanted)) return 2;
      return [layer.type, ...layer.blobs.map((blob) => blob.key)].some((text) => text.toLowerCase().includes(wanted)) ? 3 : 4;
    };
    const hits = layers.map((layer, index) => [rank(layer), index]).filter(([score]) => score < 4);
    hits.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    found.replaceChildren(...hits.slice(0, MOST).map(([, index]) => {
      const option = make("li");
      option.append(make("bdi", short(layers[index].name), "id"), make("small", layers[index].type));
      option.setAttribute("role", "option");
      option.id = "found-" + index;
      option.dataset.place = index;
      return option;
    }));
    if (!hits.length) {
      const none = make("li", "No layer has this in its name, its type or its blobs.");
      none.setAttribute("role", "option");
      none.setAttribute("aria-disabled", "true");
      found.append(none);
    }
    found.hidden = false;
    find.setAttribute("aria-expanded", "true");
    return mark(hits.length ? 0 : -1);
  };
  find.addEventListener("input", search);
  find.addEventListener("focus", search);
  find.addEventListener("blur", () => setTimeout(close, 150));
  find.addEventListener("keydown", (event) => {
    const count = options().length;
    if (event.key === "Escape") return close();
    if (found.hidden || !count) return undefined;
    if (event.key === "ArrowDown") mark((active + 1) % count);
    else if (event.key === "ArrowUp") mark((active + count - 1) % count);
    else if (event.key === "Enter") take(options()[active]);
    else return undefined;
    return event.preventDefault();
  });
  found.addEventListener("mousedown", (event) => event.preventDefault());
  found.addEventListener("click", (event) => take(event.target.closest("li")));

  // Buttons that lead to a layer, and the table

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.go");
    if (!button) return;
    const named = layers.findIndex((layer) => layer.name === button.dataset.layer);
    const layer = button.dataset.place === undefined ? named : Number(button.dataset.place);
    if (layer >= 0) goTo(layer);
  });
  const body = $("layers").tBodies[0], rows = [...body.rows];
  const key = {
    place: (index) => index,
    name: (index) => layers[index].name,
    type: (index) => layers[index].type,
    shape: (index) => rows[index].cells[3].textContent.split(" × ").reduce((a, b) => a * (Number(b) || 0), 1),
    count: (index) => layers[index].count,
    macs: (index) => layers[index].macs,
    error: (index) => layers[index].error,
  };
  $("layers").tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.parentNode, by = key[button.dataset.by];
    const numbers = typeof by(0) === "number";
    const first = numbers && button.dataset.by !== "place" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const now = head.getAttribute("aria-sort") === first ? other : first;
    for (const cell of head.parentNode.cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", now);
    const sign = now === "ascending" ? 1 : -1;
    const values = rows.map((_, index) => by(index));
    const order = rows.map((_, index) => index).sort((a, b) => {
      const less = numbers ? values[a] - values[b] : values[a].localeCompare(values[b], "en", { numeric: true });
      return sign * less || a - b;
    });
    body.append(...order.map((index) => rows[index]));
  });

  // The charts say what is under the pointer, and lead to it

  const read = (plot, count, told, said, layer) => {
    const under = (event) => {
      const frame = plot.getBoundingClientRect();
      const index = Math.floor((event.clientX - frame.left) / frame.width * count);
      return Math.min(Math.max(index, 0), count - 1);
    };
    plot.addEventListener("pointermove", (event) => { told.textContent = said(under(event)); });
    plot.addEventListener("pointerleave", () => { told.textContent = ""; });
    plot.addEventListener("click", (event) => goTo(layer(under(event))));
  };
  if (data.compared.length) {
    const blobs = new Map(layers.flatMap((layer) => layer.blobs.map((blob) => [blob.key, blob])));
    const said = (index) => {
      const [where, error, state] = blobs.get(data.compared[index]).compared[0];
      return `${short(data.compared[index])}: ${error} (${where}), ${data.states[state]}`;
    };
    read($("error-plot"), data.compared.length, $("error-told"), said, (index) => writer.get(data.compared[index]));
  }
  for (const plot of document.querySelectorAll(".bars")) {
    const said = (index) => `${short(layers[index].name)}: ${layers[index].said[plot.dataset.of === "macs" ? 1 : 0]}`;
    read(plot, layers.length, $("cost-told"), said, (index) => index);
  }

  new ResizeObserver(() => show()).observe(view);
  start();
})();
