// Pointing at a word lights up what it matches. Numbers are read from JSON blocks; text is written only as text.
(() => {
  const SIDES = ["bcosx-for", "bcosx-against", "bcosx-none"];
  const SVG = "http://www.w3.org/2000/svg";
  const side = (value) => (value > 0 ? SIDES[0] : value < 0 ? SIDES[1] : SIDES[2]);
  const paint = (element, value) => {
    element.classList.remove(...SIDES);
    element.classList.add(side(value));
    element.style.setProperty("--s", Math.min(1, Math.abs(value)).toFixed(3));
  };
  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const draw = (name, attributes, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const start = (stage) => {
    const data = JSON.parse(stage.querySelector(".bcosx-data").textContent);
    const readout = stage.querySelector(".bcosx-readout");
    const texts = [...stage.querySelectorAll(".bcosx-text")];
    const units = texts.map((text) => [...text.querySelectorAll(".bcosx-unit")]);
    const calm = units.map((some) => some.map((unit) => [unit.className, unit.style.cssText, unit.dataset.score]));
    let held = null;

    const number = (value) => {
      const score = value * data.step;
      const text = data.decimals === null ? Math.abs(score).toExponential(2) : Math.abs(score).toFixed(data.decimals);
      return (Number(text) === 0 ? "" : score < 0 ? "−" : "+") + text;
    };
    const strength = (value) => (data.scale ? (value * data.step) / data.scale : 0);
    // What a unit adds with those of each other text: [number of the text, values].
    const matches = ([text, unit]) => data.pairs.flatMap((pairs) =>
      pairs.a === text ? [[pairs.b, pairs.values[unit]]]
        : pairs.b === text ? [[pairs.a, pairs.values.map((row) => row[unit])]] : []);
    const strongest = (values, count) => [...values.keys()].filter((i) => values[i])
      .sort((i, j) => Math.abs(values[j]) - Math.abs(values[i])).slice(0, count);

    const rest = () => units.forEach((some, text) => some.forEach((unit, i) => {
      [unit.className, unit.style.cssText] = calm[text][i];
      if (calm[text][i][2] === undefined) delete unit.dataset.score; else unit.dataset.score = calm[text][i][2];
    }));
    const clear = (text) => units[text].forEach((unit) => {
      unit.classList.remove("bcosx-noted", "bcosx-chosen");
      delete unit.dataset.score;
      paint(unit, 0);
      unit.style.setProperty("--s", 0);
    });
    // Numbers below the strongest, as long as they do not collide.
    const note = (text, values, places) => {
      const taken = [];
      for (const i of places) {
        const box = units[text][i].getBoundingClientRect();
        const x = box.x + box.width / 2;
        if (taken.some(([other, foot]) => Math.abs(other - x) < 48 && Math.abs(foot - box.bottom) < 12)) continue;
        taken.push([x, box.bottom]);
        units[text][i].classList.add("bcosx-noted");
        units[text][i].dataset.score = number(values[i]);
      }
    };
    const say = (lines) => {
      const all = [...readout.children];
      all.forEach((line, i) => line.replaceChildren(...(lines[i] ?? [])));
    };
    const chip = (text, i, value) => {
      const element = make("span", "bcosx-chip " + side(value));
      element.append(make("bdi", "", data.labels[text][i]), " ", make("b", "", number(value)));
      return element;
    };
    const hint = () => say([[make("i", "", "Point at a word to see what it matches.")]]);

    const show = (place) => {
      rest();
      stage.classList.toggle("bcosx-held", held !== null);
      texts.forEach((text) => text.classList.remove("bcosx-aside-text"));
      stage.querySelectorAll(".bcosx-map .bcosx-chosen").forEach((text) => text.classList.remove("bcosx-chosen"));
      if (place === null) return hint();
      if (place.length > 2) return showPair(place);
      const [text, unit] = place, found = matches(place);
      const own = calm[text][unit];
      clear(text);
      units[text][unit].className = own[0];
      units[text][unit].style.cssText = own[1];
      units[text][unit].classList.add("bcosx-chosen");
      texts.forEach((element, other) => {
        const involved = other === text || found.some(([number]) => number === other);
        element.classList.toggle("bcosx-aside-text", !involved);
      });
      const head = [make("b", "", data.labels[text][unit]), ": ", make("b", "", data.sums[text][unit]), " ",
        make("i", "", "with all of the other text")];
      if (texts.length > 2) head[4].textContent = text ? "with the whole query" : "first less second document";
      const lines = found.map(([other, values]) => {
        clear(other);
        values.forEach((value, i) => paint(units[other][i], strength(value)));
        const places = strongest(values, 6);
        note(other, values, places.slice(0, 4).filter((i) => Math.abs(strength(values[i])) >= 0.08));
        const chips = places.map((i) => chip(other, i, values[i]));
        return [...(found.length > 1 ? [make("i", "", data.names[other] + ": ")] : []), ...chips];
      });
      mark(text, unit);
      say([head, ...lines]);
    };
    const showPair = ([which, i, j]) => {
      const pairs = data.pairs[which], value = pairs.values[i][j];
      texts.forEach((element, text) => {
        element.classList.toggle("bcosx-aside-text", text !== pairs.a && text !== pairs.b);
        clear(text);
      });
      [[pairs.a, i], [pairs.b, j]].forEach(([text, unit]) => {
        paint(units[text][unit], strength(value));
        units[text][unit].classList.add("bcosx-chosen");
        mark(text, unit);
      });
      say([[make("b", "", data.labels[pairs.a][i]), " ", make("i", "", "with"), " ",
        make("b", "", data.labels[pairs.b][j]), ": ", make("b", "", number(value))]]);
    };
    const mark = (text, unit) => stage.querySelectorAll(`.bcosx-map text[data-text="${text}"][data-unit="${unit}"]`)
      .forEach((label) => label.classList.add("bcosx-chosen"));

    const hold = (place) => {
      held = place;
      units.forEach((some, text) => some.forEach((unit, i) => unit.setAttribute("aria-pressed",
        place !== null && place.length === 2 && place[0] === text && place[1] === i)));
      show(place);
    };
    const same = (one, two) => one !== null && two !== null && one.join() === two.join();
    const point = (element, place, focusable) => {
      element.addEventListener("mouseenter", () => { if (!held) show(place); });
      element.addEventListener("click", (event) => {
        event.stopPropagation();
        hold(same(held, place) ? null : place);
      });
      if (focusable) element.addEventListener("focus", () => { if (!held) show(place); });
    };
    const placeOf = (unit) => [Number(unit.parentElement.closest(".bcosx-text").dataset.text), Number(unit.dataset.unit)];
    const focused = () => {
      const active = document.activeElement;
      return stage.contains(active) && active.classList.contains("bcosx-unit") ? placeOf(active) : null;
    };

    texts.forEach((element, text) => {
      const some = units[text];
      some.forEach((unit, i) => {
        unit.tabIndex = i ? -1 : 0;
        unit.setAttribute("role", "button");
        unit.setAttribute("aria-pressed", "false");
        unit.setAttribute("aria-label", `${data.labels[text][i]}, ${data.sums[text][i]}`);
        point(unit, [text, i], true);
      });
      element.addEventListener("mouseleave", () => { if (!held) show(focused()); });
      element.addEventListener("focusout", (event) => {
        if (!held && !(event.relatedTarget && stage.contains(event.relatedTarget))) show(null);
      });
      element.addEventListener("keydown", (event) => {
        const i = some.indexOf(event.target);
        if (i < 0) return;
        const ahead = getComputedStyle(event.target).direction === "rtl" ? -1 : 1;
        const next = { ArrowRight: i + ahead, ArrowDown: i + 1, ArrowLeft: i - ahead, ArrowUp: i - 1, Home: 0,
          End: some.length - 1 }[event.key];
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          hold(same(held, [text, i]) ? null : [text, i]);
          if (!held) show([text, i]);
        } else if (next !== undefined && some[next]) {
          event.preventDefault();
          some.forEach((unit) => { unit.tabIndex = unit === some[next] ? 0 : -1; });
          if (held) hold([text, next]);
          some[next].focus();
        }
      });
    });
    stage.querySelectorAll("tr[data-place]").forEach((row) => {
      const place = row.dataset.place.split(",").map(Number);
      point(row, place[2] < 0 ? place.slice(0, 2) : place, false);
      row.addEventListener("mouseleave", () => { if (!held) show(focused()); });
    });

    // ---- heat maps: rows are the longer text, so that a page scrolls down rather than sideways ----
    const short = (label) => (label.length > 16 ? label.slice(0, 15) + "…" : label);
    const map = (figure) => {
      const which = Number(figure.dataset.pairs), pairs = data.pairs[which];
      const flip = pairs.values.length < units[pairs.b].length;
      const [down, along] = flip ? [pairs.b, pairs.a] : [pairs.a, pairs.b];
      const rows = data.labels[down], columns = data.labels[along];
      const room = Math.max(figure.clientWidth, 300) - 150;
      const cell = Math.max(14, Math.min(26, Math.floor(room / columns.length)));
      const longest = (labels) => Math.max(2, ...labels.map((label) => short(label).length)) * 6.6;
      const left = Math.max(40, longest(rows) + 12), top = longest(columns) * 0.87 + 16, width = left + columns.length * cell + 50, height = top + rows.length * cell + 2;
      const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
        "aria-label": `${data.names[down]} down, ${data.names[along]} along` });
      svg.append(draw("rect", { class: "bcosx-ground", x: left, y: top, width: columns.length * cell,
        height: rows.length * cell }));
      const label = (text, unit, attributes) => {
        const kind = units[text][unit].classList.contains("bcosx-special") ? "bcosx-special" : "";
        svg.append(draw("text", { class: kind, "data-text": text, "data-unit": unit, ...attributes },
          short(data.labels[text][unit])));
      };
      columns.forEach((_, j) => {
        const x = left + (j + 0.6) * cell;
        label(along, j, { transform: `translate(${x} ${top - 6}) rotate(-60)` });
      });
      rows.forEach((_, i) => {
        label(down, i, { x: left - 7, y: top + (i + 0.5) * cell + 4, "text-anchor": "end" });
        columns.forEach((_, j) => {
          const place = flip ? [which, j, i] : [which, i, j], value = pairs.values[place[1]][place[2]];
          const rect = draw("rect", { x: left + j * cell, y: top + i * cell, width: cell - 1, height: cell - 1, rx: 2 });
          paint(rect, strength(value));
          const [one, two] = [data.labels[pairs.a][place[1]], data.labels[pairs.b][place[2]]];
          rect.append(draw("title", {}, `${one} · ${two}: ${number(value)}`));
          point(rect, place, false);
          svg.append(rect);
        });
      });
      svg.addEventListener("mouseleave", () => { if (!held) show(focused()); });
      figure.append(svg);
    };
    const maps = stage.querySelector(".bcosx-maps");
    maps.hidden = false;
    maps.addEventListener("toggle", () => {
      if (!maps.open || maps.querySelector("svg, .bcosx-notes")) return;
      maps.querySelectorAll(".bcosx-map").forEach(data.drawn ? map : (figure) => figure.append(
        make("p", "bcosx-notes", "Too many pairs to draw here: ask for by=\"sentence\", or for a picture with to_image.")));
    });

    readout.hidden = false;
    hint();
    return () => hold(null);
  };

  const releases = [...document.querySelectorAll(".bcosx-stage")].map(start);
  const release = () => releases.forEach((one) => one());
  document.addEventListener("click", release);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (document.activeElement?.classList.contains("bcosx-unit")) document.activeElement.blur();
    release();
  });
  document.querySelector(".bcosx-help").hidden = false;
})();
