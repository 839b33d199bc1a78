// Completes names, moves the answer with the sliders, and fetches the entities in the same chunks.
// Without it the page works, too: the form has a button, and the margin a link.
"use strict";

const form = document.getElementById("ask");
const field = document.getElementById("q");
const list = document.getElementById("suggestions");
let chosen = -1;
let asked = 0;

function later(milliseconds, action) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}

async function readPage(address) {
  const response = await fetch(address);
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

// Names that begin so

function closeList() {
  list.hidden = true;
  chosen = -1;
  field.setAttribute("aria-expanded", "false");
  field.removeAttribute("aria-activedescendant");
}

function suggestion(match, number) {
  const item = document.createElement("li");
  item.id = `suggestion-${number}`;
  item.setAttribute("role", "option");
  item.dataset.entity = match.entity;
  const about = document.createElement("small");
  const called = match.name && match.name !== match.text ? `${match.name}, ` : "";
  about.textContent = `${called}${match.entity} · ${match.chunks.toLocaleString("en")}`;
  item.append(match.text, " ", about);
  item.addEventListener("mousedown", (event) => {
    event.preventDefault();
    take(item);
  });
  return item;
}

function take(item) {
  field.value = item.dataset.entity;
  closeList();
  form.requestSubmit();
}

function move(by) {
  const items = list.children;
  if (chosen >= 0) items[chosen].removeAttribute("aria-selected");
  chosen = (chosen + by + items.length + (chosen < 0 && by < 0 ? 1 : 0)) % items.length;
  items[chosen].setAttribute("aria-selected", "true");
  items[chosen].scrollIntoView({ block: "nearest" });
  field.setAttribute("aria-activedescendant", items[chosen].id);
}

async function suggest() {
  const number = ++asked;
  if (!field.value.trim()) return closeList();
  const response = await fetch(`/suggest?q=${encodeURIComponent(field.value)}`);
  const matches = response.ok ? await response.json() : [];
  if (number !== asked || document.activeElement !== field) return;
  closeList();
  list.replaceChildren(...matches.map(suggestion));
  list.hidden = matches.length === 0;
  field.setAttribute("aria-expanded", String(!list.hidden));
}

field.addEventListener("input", later(80, suggest));
field.addEventListener("blur", closeList);
field.addEventListener("keydown", (event) => {
  if (list.hidden) return;
  if (event.key === "Escape") {
    event.preventDefault(); // it would empty the field
    closeList();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    move(event.key === "ArrowDown" ? 1 : -1);
  } else if (event.key === "Enter" && chosen >= 0) {
    event.preventDefault();
    take(list.children[chosen]);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== field && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    field.select();
  }
});
form.addEventListener("submit", () => {
  asked += 1;
  if (field.value !== field.defaultValue) form.querySelector("[name=also]")?.remove();
});

// Sliders

const standard = { hyperlink: 1, entity_linking: 0.6, coref: 0.6, coref_cluster: 0.6 };

function inWords(value) {
  return value > 1 ? "off" : `≥ ${value.toFixed(2)}`;
}

function addressNow() {
  const address = new URL(location.href);
  for (const [source, usual] of Object.entries(standard)) {
    const value = Number(form.elements[source].value);
    if (value === usual) address.searchParams.delete(source);
    else address.searchParams.set(source, value > 1 ? "none" : String(value));
  }
  address.searchParams.delete("page");
  return address;
}

const refresh = later(120, async () => {
  const address = addressNow();
  const page = await readPage(address);
  if (addressNow().href !== address.href) return; // moved on meanwhile
  history.replaceState(null, "", address);
  document.getElementById("content").replaceChildren(...page.getElementById("content").children);
  showTogether();
});

for (const slider of form.querySelectorAll("input[type=range]")) {
  slider.addEventListener("input", () => {
    const words = inWords(Number(slider.value));
    slider.setAttribute("aria-valuetext", words);
    slider.nextElementSibling.textContent = words;
    refresh();
  });
}

// The margin

async function showTogether() {
  const margin = document.getElementById("together");
  if (!margin?.dataset.address) return;
  const page = await readPage(margin.dataset.address);
  const found = page.getElementById("together");
  if (found) margin.replaceChildren(...found.children);
}

showTogether();
