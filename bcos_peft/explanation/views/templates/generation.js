// Pointing at a generated token lights up what it came from. Numbers are read from a JSON block; text is written only as text.
(() => {
  const data = JSON.parse(document.getElementById("bcosx-data").textContent);
  const at = (name) => document.getElementById("bcosx-" + name);
  const units = [...document.querySelectorAll(".bcosx-text .bcosx-w")];
  const tokens = units.filter((unit) => unit.dataset.step !== undefined);
  const sides = ["bcosx-for", "bcosx-against", "bcosx-none"];
  let held = null;
  const side = (value) => (value > 0 ? sides[0] : value < 0 ? sides[1] : sides[2]);
  const paint = (element, value) => {
    element.classList.remove(...sides);
    element.classList.add(side(value));
    element.style.setProperty("--s", Math.abs(value) / 100);
  };
  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const fill = (body, rows) => body && body.replaceChildren(...rows.map(([label, number, strength, kind]) => {
    const row = make("tr", kind === "rest" || kind === "special" ? "bcosx-quiet" : "");
    const head = make("th", "", label);
    head.scope = "row";
    head.dir = "auto";
    const cell = make("td", "bcosx-bars"), bar = make("span", "bcosx-bar"), fillBar = make("i");
    paint(fillBar, strength);
    bar.append(fillBar);
    cell.append(bar);
    row.append(head, make("td", "bcosx-number", number), cell);
    return row;
  }));
  const show = (token) => {
    const step = token ? data.steps[token.dataset.step] : data.whole;
    const end = token ? units.indexOf(token) : units.length;
    units.forEach((unit, index) => {
      paint(unit, step.strengths[index]);
      unit.classList.toggle("bcosx-chosen", unit === token);
      unit.classList.toggle("bcosx-later", index > end);
      unit.classList.toggle("bcosx-held", unit === held);
    });
    at("label").textContent = step.label;
    if (at("foil")) at("foil").textContent = step.foil;
    at("probability").textContent = step.probability;
    at("logit").textContent = at("equals").textContent = step.logit;
    at("total").textContent = step.total;
    at("residual").textContent = step.residual;
    at("sign").textContent = step.exact ? "=" : "≠";
    at("warning").hidden = step.exact;
    fill(at("passages"), step.passages);
    fill(at("sources"), step.sources);
  };
  const hold = (token) => {
    held = token;
    tokens.forEach((other) => other.setAttribute("aria-pressed", other === token));
    show(token);
  };
  const go = (token) => {
    tokens.forEach((other) => { other.tabIndex = other === token ? 0 : -1; });
    token.focus();
  };
  tokens.forEach((token, index) => {
    token.tabIndex = index ? -1 : 0;
    token.setAttribute("role", "button");
    token.setAttribute("aria-pressed", "false");
    token.setAttribute("aria-controls", "bcosx-panel");
    token.addEventListener("mouseenter", () => { if (!held) show(token); });
    token.addEventListener("focus", () => { if (!held) show(token); });
    token.addEventListener("click", () => hold(held === token ? null : token));
  });
  at("answer").addEventListener("mouseleave", () => {
    if (!held) show(tokens.includes(document.activeElement) ? document.activeElement : null);
  });
  at("answer").addEventListener("focusout", (event) => { if (!held && !tokens.includes(event.relatedTarget)) show(null); });
  at("answer").addEventListener("keydown", (event) => {
    const index = tokens.indexOf(event.target);
    const ahead = getComputedStyle(at("answer")).direction === "rtl" ? -1 : 1;
    const next = { ArrowRight: index + ahead, ArrowDown: index + 1, ArrowLeft: index - ahead, ArrowUp: index - 1, Home: 0,
      End: tokens.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      hold(held === event.target ? null : event.target);
      if (!held) show(event.target);
    } else if (next !== undefined && tokens[next]) {
      event.preventDefault();
      if (held) hold(tokens[next]);
      go(tokens[next]);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    hold(null);
    if (tokens.includes(document.activeElement)) document.activeElement.blur();
  });
  at("help").hidden = false;
})();
