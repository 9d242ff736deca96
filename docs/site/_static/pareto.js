// Draws cost against perplexity of the cascade's routes from the JSON on the page. No library.
"use strict";
(() => {
  const place = document.getElementById("pareto");
  const source = document.getElementById("pareto-data");
  if (!place || !source) return;
  const { points, base, texts } = JSON.parse(source.textContent);
  if (!points.length) return;
  const SPACE = "http://www.w3.org/2000/svg";
  const unique = (values) => [...new Set(values)];
  const NAMES = { test: "test text (instructions)", val: "validation text (instructions)",
    wikitext: "WikiText-2", last_two_layers: "cosine of the last two layers" };
  const named = (word) => NAMES[word] ?? word.replaceAll("_", " ");
  const AXES = { cost: "FLOPs per token (base alone = 1)", rate: "share of tokens sent to the stage" };
  const state = { chosen: 0 };

  const form = document.createElement("form");
  form.className = "claims-filter";
  form.addEventListener("submit", (event) => event.preventDefault());
  const selects = {};
  function choice(name, label, values, words = named) {
    const select = document.createElement("select");
    for (const value of values) select.add(new Option(words(value), value));
    const holder = document.createElement("label");
    holder.textContent = label;
    holder.append(select);
    form.append(holder);
    select.addEventListener("input", () => { state.chosen = 0; draw(); });
    selects[name] = select;
  }
  const rules = unique(points.map((p) => p.rule));
  choice("rule", "rule", rules);
  choice("text", "text", texts);
  choice("network", "stage", unique(points.map((p) => p.network)), String);
  choice("axis", "cost as", Object.keys(AXES), (axis) => AXES[axis]);
  if (rules.includes("gate")) selects.rule.value = "gate";

  const figure = document.createElement("figure");
  const caption = document.createElement("p");
  caption.className = "pareto-caption";
  caption.setAttribute("role", "status");
  caption.setAttribute("aria-live", "polite");
  const holder = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = "The numbers of this line, mean over seeds";
  const table = document.createElement("table");
  holder.append(summary, table);
  place.replaceChildren(form, figure, caption, holder);

  const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

  // mean over seeds of every rule at every wanted share, in order of cost
  function lines(axis) {
    const here = points.filter((p) => p.text === selects.text.value &&
      p.network === selects.network.value && p[axis] !== null && p.ppl !== null);
    const found = new Map();
    for (const rule of rules) {
      const own = here.filter((p) => p.rule === rule);
      const line = unique(own.map((p) => p.wanted)).map((wanted) => {
        const seeds = own.filter((p) => p.wanted === wanted);
        return {
          rule, wanted, seeds, x: mean(seeds.map((p) => p[axis])),
          ppl: mean(seeds.map((p) => p.ppl)), rate: mean(seeds.map((p) => p.rate)),
          cost: seeds[0].cost === null ? null : mean(seeds.map((p) => p.cost)),
          chance: seeds[0].chance === null ? null : mean(seeds.map((p) => p.chance)),
        };
      }).sort((a, b) => a.x - b.x);
      if (line.length) found.set(rule, line);
    }
    return found;
  }

  function add(parent, name, attributes, text) {
    const made = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function ticks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k += 1) found.push(k * step);
    return found;
  }

  const shown = (value) => (value === null || value === undefined ? "not counted"
    : Number(value.toPrecision(4)).toLocaleString("en"));

  function tell(point) {
    const reference = base[selects.text.value];
    const share = reference ? `, ${shown(point.ppl / reference)} of the base's ${shown(reference)}` : "";
    const chance = point.chance === null ? "" : ` Chance at this share: ${shown(point.chance)}.`;
    caption.textContent = `${named(point.rule)}: perplexity ${shown(point.ppl)}${share}; ` +
      `${shown(100 * point.rate)} % of tokens sent to the stage, FLOPs ${shown(point.cost)}. ` +
      `Mean of ${point.seeds.length} seeds: ` +
      `${point.seeds.map((p) => shown(p.ppl)).join(", ")}.${chance}`;
  }

  function draw() {
    const counted = points.some((p) => p.text === selects.text.value && p.cost !== null);
    selects.axis.options[0].disabled = !counted;
    if (!counted) selects.axis.value = "rate";
    const axis = selects.axis.value;
    const all = lines(axis);
    const width = Math.max(300, Math.min(place.clientWidth || 700, 860));
    const height = Math.round(Math.min(460, Math.max(300, width * 0.6)));
    const edge = { left: 52, right: 14, top: 22, bottom: 46 };
    const reference = base[selects.text.value];
    const chosen = all.get(selects.rule.value) ?? [];
    const drawn = [...all.values()].flat();
    const xs = drawn.map((p) => p.x);
    const ys = drawn.flatMap((p) => p.seeds.map((s) => s.ppl))
      .concat(chosen.map((p) => p.chance).filter((v) => v !== null), reference ? [reference] : []);
    const range = (values) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const room = (high - low || 1) * 0.05;
      return [low - room, high + room];
    };
    const [left, right] = range(xs);
    const [low, high] = range(ys);
    const X = (v) => edge.left + ((v - left) / (right - left)) * (width - edge.left - edge.right);
    const Y = (v) => edge.top + ((high - v) / (high - low)) * (height - edge.top - edge.bottom);

    const svg = document.createElementNS(SPACE, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("class", "pareto");
    svg.setAttribute("role", "group");
    svg.setAttribute("aria-label", `${AXES[axis]} against perplexity`);
    for (const value of ticks(left, right, width < 500 ? 4 : 7)) {
      add(svg, "line", { class: "grid", x1: X(value), x2: X(value), y1: edge.top, y2: height - edge.bottom });
      add(svg, "text", { class: "tick", x: X(value), y: height - edge.bottom + 16 }, shown(value));
    }
    for (const value of ticks(low, high, 6)) {
      add(svg, "line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: Y(value), y2: Y(value) });
      add(svg, "text", { class: "tick left", x: edge.left - 6, y: Y(value) + 4 }, shown(value));
    }
    add(svg, "text", { class: "note", x: (edge.left + width - edge.right) / 2, y: height - 8,
      "text-anchor": "middle" }, AXES[axis]);
    add(svg, "text", { class: "note", x: 4, y: 12 }, "perplexity");
    if (reference) {
      add(svg, "line", { class: "base", x1: edge.left, x2: width - edge.right, y1: Y(reference), y2: Y(reference) });
      add(svg, "text", { class: "note", x: width - edge.right, y: Y(reference) - 5, "text-anchor": "end" },
        `base alone ${shown(reference)}`);
    }
    const path = (line, y) => line.map((p, k) => `${k ? "L" : "M"}${X(p.x)} ${Y(y(p))}`).join("");
    for (const [rule, line] of all) {
      if (rule !== selects.rule.value) {
        const other = add(svg, "path", { class: "other", d: path(line, (p) => p.ppl) });
        add(other, "title", {}, `${named(rule)}: click to choose it`);
        other.addEventListener("click", () => {
          selects.rule.value = rule;
          state.chosen = 0;
          draw();
        });
      }
    }
    if (chosen.length && chosen[0].chance !== null) {
      add(svg, "path", { class: "chance", d: path(chosen, (p) => p.chance) });
    }
    add(svg, "path", { class: "chosen", d: path(chosen, (p) => p.ppl) });
    const dots = [];
    chosen.forEach((point, k) => {
      for (const seed of point.seeds) {
        add(svg, "circle", { class: "seed", cx: X(seed[axis]), cy: Y(seed.ppl), r: 2.5 });
      }
      const dot = add(svg, "circle", { class: "dot", cx: X(point.x), cy: Y(point.ppl), r: 6,
        tabindex: k === state.chosen ? 0 : -1, role: "img",
        "aria-label": `${AXES[axis]} ${shown(point.x)}, perplexity ${shown(point.ppl)}` });
      const pick = () => {
        dots[state.chosen]?.setAttribute("tabindex", -1);
        dots[state.chosen]?.classList.remove("picked");
        state.chosen = k;
        dot.setAttribute("tabindex", 0);
        dot.classList.add("picked");
        tell(point);
      };
      dot.addEventListener("pointerenter", pick);
      dot.addEventListener("click", pick);
      dot.addEventListener("focus", pick);
      dot.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
        const next = { Home: 0, End: chosen.length - 1 }[event.key] ?? k + (step ?? 0);
        if (next !== k && dots[next]) {
          event.preventDefault();
          dots[next].focus();
        }
      });
      dots.push(dot);
    });
    const legend = document.createElement("p");
    legend.className = "pareto-legend";
    legend.innerHTML = '<span class="key chosen"></span> the rule chosen, small dots: seeds ' +
      '<span class="key chance"></span> chance <span class="key other"></span> other rules (click one)';
    figure.replaceChildren(svg, legend);
    if (chosen.length) {
      dots[state.chosen].classList.add("picked");
      tell(chosen[state.chosen]);
    } else {
      caption.textContent = "This rule was not tried here.";
    }
    const head = ["tokens, %", "FLOPs", "perplexity", "chance"];
    table.innerHTML = `<thead><tr>${head.map((h) => `<th scope="col">${h}</th>`).join("")}</tr></thead>` +
      `<tbody>${chosen.map((p) => `<tr>${[100 * p.rate, p.cost, p.ppl, p.chance]
        .map((v) => `<td>${shown(v)}</td>`).join("")}</tr>`).join("")}</tbody>`;
  }

  draw();
  let last = place.clientWidth;
  addEventListener("resize", () => {
    if (place.clientWidth !== last) { last = place.clientWidth; draw(); }
  });
})();
