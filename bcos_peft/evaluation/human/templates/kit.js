// Builds the pairs from a JSON block, writes text only as text, and sends nothing anywhere.
(() => {
  const data = JSON.parse(document.getElementById("bcosx-data").textContent);
  const at = (name) => document.getElementById("bcosx-" + name);
  const pairs = data.pairs, store = "bcos_peft.human_kit." + data.kit;
  const radios = [...document.querySelectorAll('input[name="choice"]')];
  const random = () => [...crypto.getRandomValues(new Uint8Array(8))].map((n) => n.toString(16).padStart(2, "0")).join("");
  let state = { reader: random(), code: "", started: null, at: 0, answers: {} };
  let keeps = true, since = 0;
  try {
    const kept = JSON.parse(localStorage.getItem(store));
    if (kept && kept.reader && kept.answers) state = kept;
  } catch { keeps = false; }
  const keep = () => {
    try { localStorage.setItem(store, JSON.stringify(state)); } catch { keeps = false; }
    at("state").textContent = keeps ? "" : "This browser keeps nothing: do not close the page before you download your answers.";
  };
  const answered = () => pairs.filter((pair) => state.answers[pair.pair] && state.answers[pair.pair].choice).length;
  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const draw = (side, marked) => {
    at("text-" + side).replaceChildren(...marked.lines.map((line) => {
      const paragraph = make("p", "bcosx-text");
      paragraph.dir = "auto";
      paragraph.append(...line.map(([text, strength]) => {
        if (strength === undefined) return text;
        const word = make("span", "bcosx-w " + (strength > 0 ? "bcosx-for" : "bcosx-against bcosx-minus"), text);
        word.style.setProperty("--s", Math.abs(strength) / 100);
        return word;
      }));
      return paragraph;
    }));
    at("spoken-" + side).textContent = marked.spoken;
  };
  const look = () => {
    const picked = (state.answers[pairs[state.at].pair] || {}).choice;
    radios.forEach((radio) => { radio.checked = radio.value === picked; });
    at("left").classList.toggle("bcosx-picked", picked === "left");
    at("right").classList.toggle("bcosx-picked", picked === "right");
    at("next").disabled = !picked;
    at("next").textContent = state.at === pairs.length - 1 ? "Finish" : "Next";
    at("progress").value = answered();
  };
  const clock = () => {
    if (at("pair").hidden || !since) return;
    const answer = state.answers[pairs[state.at].pair] ||= { choice: null, seconds: 0 };
    answer.seconds += (performance.now() - since) / 1000;
    since = document.hidden ? 0 : performance.now();
  };
  const only = (name) => ["start", "pair", "end"].forEach((other) => { at(other).hidden = other !== name; });
  const show = (index) => {
    clock();
    state.at = Math.min(Math.max(index, 0), pairs.length - 1);
    const pair = pairs[state.at];
    only("pair");
    at("step").textContent = "Pair " + (state.at + 1) + " of " + pairs.length;
    at("says").textContent = pair.says;
    at("than").hidden = pair.rather === null;
    at("rather").textContent = pair.rather ?? "";
    draw("left", pair.left);
    draw("right", pair.right);
    at("back").disabled = state.at === 0;
    since = performance.now();
    look();
    keep();
    at("step").focus();
    scrollTo(0, 0);
  };
  const pick = (choice) => {
    clock();
    (state.answers[pairs[state.at].pair] ||= { choice: null, seconds: 0 }).choice = choice;
    look();
    keep();
  };
  const result = () => JSON.stringify({
    format: "bcos_peft.human_answers", version: 1, kit: data.kit, reader: state.reader, code: state.code,
    simulated: false, started: state.started, finished: new Date().toISOString(),
    answers: pairs.filter((pair) => (state.answers[pair.pair] || {}).choice).map((pair) => ({
      pair: pair.pair, choice: state.answers[pair.pair].choice,
      seconds: Math.round(state.answers[pair.pair].seconds * 10) / 10,
    })),
  }, null, 1) + "\n";
  const finish = () => {
    clock();
    since = 0;
    only("end");
    const missing = pairs.length - answered();
    at("done").textContent = missing ? "Not quite finished" : "Thank you: all pairs are answered";
    at("missing").textContent = missing ? missing + " of " + pairs.length + " pairs have no answer yet." : "";
    at("copy").value = result();
    keep();
    at("done").focus();
  };
  const next = () => {
    if (at("next").disabled) return;
    if (state.at === pairs.length - 1) finish(); else show(state.at + 1);
  };
  const begin = () => {
    state.code = at("code").value.trim();
    state.started ||= new Date().toISOString();
    const open = pairs.findIndex((pair) => !(state.answers[pair.pair] || {}).choice);
    if (open < 0) finish(); else show(open);
  };
  at("begin").addEventListener("click", begin);
  at("code").addEventListener("keydown", (event) => { if (event.key === "Enter") begin(); });
  at("next").addEventListener("click", next);
  at("back").addEventListener("click", () => show(state.at - 1));
  at("return").addEventListener("click", () => {
    const open = pairs.findIndex((pair) => !(state.answers[pair.pair] || {}).choice);
    show(open < 0 ? pairs.length - 1 : open);
  });
  at("download").addEventListener("click", () => {
    const link = document.createElement("a");
    const address = URL.createObjectURL(new Blob([result()], { type: "application/json" }));
    link.href = address;
    link.download = "answers-" + data.kit.slice(0, 6) + "-" + state.reader.slice(0, 6) + ".json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  });
  radios.forEach((radio) => radio.addEventListener("change", () => pick(radio.value)));
  document.addEventListener("keydown", (event) => {
    if (at("pair").hidden || !at("keys").checked || event.ctrlKey || event.metaKey || event.altKey) return;
    const number = "123".indexOf(event.key);
    if (event.key.length === 1 && number >= 0) pick(radios[number].value);
    else if (event.key.toLowerCase() === "n") next();
    else if (event.key.toLowerCase() === "p" && state.at > 0) show(state.at - 1);
  });
  document.addEventListener("visibilitychange", () => {
    clock();
    if (!document.hidden && !at("pair").hidden) since = performance.now();
    keep();
  });
  at("count").textContent = pairs.length;
  at("progress").max = pairs.length;
  at("code").value = state.code;
  if (answered()) at("begin").textContent = "Go on";
  only("start");
})();
