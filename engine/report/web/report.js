"use strict";
(() => {
  const PAGE = 20;
  const LEAST_LIKELY = 8; // nat: from here on a token is as dark as it gets
  const at = (id) => document.getElementById(id);

  // Text goes into the page as text, never as markup.
  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const number = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(3))));

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(at(id).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function complain(error) {
    at("trouble").hidden = false;
    at("trouble").textContent = `This browser cannot show all of the page (${error}). A newer one can.`;
  }

  // ---- charts ----

  let charts = {};
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();

  function inTheme(chart) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    const quiet = style.getPropertyValue("--quiet").trim();
    const line = style.getPropertyValue("--line").trim();
    const config = chart.config;
    return {
      ...chart,
      config: {
        ...config,
        title: { ...config.title, color: ink },
        axis: { ...config.axis, labelColor: quiet, titleColor: quiet, gridColor: line, domainColor: line, tickColor: line },
        legend: { ...config.legend, labelColor: ink, titleColor: ink },
      },
    };
  }

  async function draw(place) {
    const name = place.dataset.chart;
    const old = views.get(place);
    if (old) old.finalize();
    const options = {
      mode: "vega-lite",
      ast: true, // expressions are interpreted: the page allows no eval
      actions: false,
      renderer: "svg",
      defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
    };
    views.set(place, await window.vegaEmbed(place, inTheme(charts[name]), options));
  }

  function drawWhenSeen() {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          seen.unobserve(entry.target);
          draw(entry.target).catch(complain);
        }
      }
    }, { rootMargin: "400px" });
    for (const place of document.querySelectorAll("[data-chart]")) seen.observe(place);
    dark.addEventListener("change", () => [...views.keys()].forEach(draw));
  }

  const chartsRead = unpacked("charts-data").then((text) => {
    charts = JSON.parse(text);
    drawWhenSeen();
  });

  // ---- pairs ----

  const ready = () => {
    document.body.dataset.ready = "true";
  };
  if (!at("rows")) {
    chartsRead.then(ready).catch(complain);
    return;
  }

  let pairs = [];
  let found = [];
  let first = 0;
  let order = { by: "place", up: true };

  function prepared(pair, place) {
    const said = pair.turns.map((turn) => turn[1]).join("\n");
    pair.place = place + 1;
    pair.prompt = pair.turns[pair.turns.length - 1][1];
    pair.longer = pair.chosen.length - pair.rejected.length;
    pair.searched = `${said}\n${pair.chosen.text}\n${pair.rejected.text}\n${pair.id}`.toLowerCase();
    pair.isOpen = place === 0;
    return pair;
  }

  function fill(select, key) {
    for (const value of [...new Set(pairs.map((pair) => pair[key]))].sort()) {
      const option = element("option", "", value);
      option.value = value;
      select.append(option);
    }
  }

  function find() {
    const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const split = at("split").value;
    const source = at("source").value;
    found = pairs.filter((pair) =>
      (!split || pair.split === split) &&
      (!source || pair.source === source) &&
      words.every((word) => pair.searched.includes(word)));
    const sign = order.up ? 1 : -1;
    // What has no number comes last in either order.
    found.sort((a, b) => {
      const [one, other] = [a[order.by], b[order.by]];
      if (one === null || other === null) return (one === null) - (other === null) || a.place - b.place;
      return sign * (one - other) || a.place - b.place;
    });
    first = 0;
    show();
  }

  function show() {
    const shown = found.slice(first, first + PAGE);
    at("rows").replaceChildren(...shown.flatMap((pair) => rowsOf(pair)));
    at("count").textContent = `${found.length.toLocaleString("en")} of ${pairs.length.toLocaleString("en")} pairs match`;
    at("page").textContent = shown.length ? `${first + 1} to ${first + shown.length}` : "none";
    at("previous").disabled = first === 0;
    at("next").disabled = first + PAGE >= found.length;
    for (const button of document.querySelectorAll("[data-sort]")) {
      const heading = button.parentElement;
      if (button.dataset.sort === order.by) heading.setAttribute("aria-sort", order.up ? "ascending" : "descending");
      else heading.removeAttribute("aria-sort");
    }
  }

  function rowsOf(pair) {
    const row = element("tr", "pair");
    row.append(element("td", "", String(pair.place)));
    const prompt = element("button", "prompt", pair.prompt.slice(0, 300));
    prompt.type = "button";
    prompt.dir = "auto";
    prompt.setAttribute("aria-expanded", String(pair.isOpen));
    const cell = element("td", "wide");
    cell.append(prompt);
    row.append(cell);
    for (const value of [pair.score, pair.ref, pair.longer, pair.changed]) row.append(element("td", "", number(value)));
    row.append(element("td", "name", pair.split), element("td", "name", pair.source));
    const detail = element("tr", "detail");
    const fillDetail = () => {
      detail.hidden = !pair.isOpen;
      prompt.setAttribute("aria-expanded", String(pair.isOpen));
      if (pair.isOpen) detail.replaceChildren(detailOf(pair));
    };
    prompt.addEventListener("click", () => {
      pair.isOpen = !pair.isOpen;
      fillDetail();
    });
    fillDetail();
    return [row, detail];
  }

  function detailOf(pair) {
    const cell = element("td");
    cell.colSpan = 8;
    for (const [role, text] of pair.turns) {
      const turn = element("div", "turn");
      const said = element("div", "text", text);
      said.dir = "auto";
      turn.append(element("div", "role", role), said);
      cell.append(turn);
    }
    const sides = element("div", "sides");
    sides.append(sideOf(pair, "chosen"), sideOf(pair, "rejected"));
    const ids = [`pair ${pair.id}`, `prompt ${pair.prompt_id}`, pair.from].filter(Boolean).join(" · ");
    cell.append(sides, element("p", "facts", ids));
    return cell;
  }

  function sideOf(pair, name) {
    const side = pair[name];
    const made = element("section", `side ${name}`);
    const text = element("div", "text");
    text.dir = "auto";
    text.append(...(at("tokens").checked && side.tokens ? tokensOf(side) : editsOf(side)));
    const facts = [`${side.length ?? "?"} tokens`];
    if (side.logps !== null) facts.push(`log-prob ${number(side.logps)} nat`);
    if (side.logps !== null && side.length) facts.push(`${number(side.logps / side.length)} a token`);
    for (const [scorer, score] of Object.entries(side.scores)) facts.push(`${scorer} ${number(score)}`);
    made.append(element("h3", "", name), text, element("p", "facts", facts.join(" · ")));
    return made;
  }

  // Places are counted in code points, as Python counts them.
  function editsOf(side) {
    const letters = Array.from(side.text);
    const parts = [];
    let place = 0;
    for (const [begin, end] of at("edits").checked ? side.own : []) {
      parts.push(document.createTextNode(letters.slice(place, begin).join("")));
      parts.push(element("mark", "own", letters.slice(begin, end).join("")));
      place = end;
    }
    parts.push(document.createTextNode(letters.slice(place).join("")));
    return parts;
  }

  function tokensOf(side) {
    const letters = Array.from(side.token_text ?? side.text);
    // Where the tokens' text is another one, it is so by what stands behind the response.
    const own = at("edits").checked ? side.own : [];
    const parts = [];
    let place = 0;
    side.tokens.forEach((length, which) => {
      const end = place + length;
      const isOwn = own.some(([begin, stop]) => begin < end && place < stop);
      const token = element("span", isOwn ? "token own" : "token", letters.slice(place, end).join(""));
      const logp = side.token_logps[which];
      token.style.setProperty("--weight", Math.min(1, -logp / LEAST_LIKELY).toFixed(2));
      token.title = `${number(logp)} nat`;
      parts.push(token);
      place = end;
    });
    return parts;
  }

  function turn(pages) {
    const next = first + pages * PAGE;
    if (next < 0 || next >= found.length) return;
    first = next;
    show();
    at("pairs").scrollIntoView();
  }

  function listen() {
    at("filters").addEventListener("submit", (event) => event.preventDefault());
    for (const id of ["search", "split", "source"]) at(id).addEventListener("input", find);
    for (const id of ["edits", "tokens"]) at(id).addEventListener("change", show);
    at("open").addEventListener("change", () => {
      for (const pair of pairs) pair.isOpen = at("open").checked;
      show();
    });
    at("previous").addEventListener("click", () => turn(-1));
    at("next").addEventListener("click", () => turn(1));
    for (const button of document.querySelectorAll("[data-sort]")) {
      button.addEventListener("click", () => {
        const by = button.dataset.sort;
        order = { by, up: order.by === by ? !order.up : true };
        find();
      });
    }
    document.addEventListener("keydown", (event) => {
      const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
      if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/") {
        event.preventDefault();
        at("search").focus();
      } else if (event.key === "n") turn(1);
      else if (event.key === "p") turn(-1);
    });
  }

  Promise.all([unpacked("pairs-data"), chartsRead]).then(([text]) => {
    pairs = text.split("\n").filter(Boolean).map((line, place) => prepared(JSON.parse(line), place));
    fill(at("split"), "split");
    fill(at("source"), "source");
    listen();
    find();
    ready();
  }).catch(complain);
})();
