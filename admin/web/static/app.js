// What a page does beyond its HTML. Every page works without it.
(() => {
  "use strict";

  const THEMES = ["system", "light", "dark"];

  // -- light, dark, or as the system has it

  const themeNow = () => document.documentElement.dataset.theme || "system";

  const showTheme = () => {
    for (const button of document.querySelectorAll("[data-theme-switch]")) {
      const words = `Colours: ${themeNow() === "system" ? "as the system" : themeNow()}`;
      button.setAttribute("aria-label", words);
      button.title = words;
      for (const icon of button.querySelectorAll("[data-theme-icon]"))
        icon.toggleAttribute("hidden", icon.dataset.themeIcon !== themeNow());
      button.hidden = false;
    }
  };

  const nextTheme = () => {
    const chosen = THEMES[(THEMES.indexOf(themeNow()) + 1) % THEMES.length];
    if (chosen === "system") {
      localStorage.removeItem("theme");
      delete document.documentElement.dataset.theme;
    } else {
      localStorage.setItem("theme", chosen);
      document.documentElement.dataset.theme = chosen;
    }
    showTheme();
    document.dispatchEvent(new Event("themechange"));
  };

  // -- copying

  const say = (text) => {
    const place = document.getElementById("say");
    if (place) place.textContent = text;
  };

  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    const words = button.querySelector("[data-copy-words]");
    let copied = true;
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
    } catch {
      copied = false;
      getSelection().selectAllChildren(source);
    }
    say(copied ? "Copied" : "Selected; copy it with your keyboard");
    if (!words) return;
    const before = button.dataset.words || words.textContent;
    button.dataset.words = before;
    words.textContent = copied ? "Copied" : "Selected";
    clearTimeout(button.timer);
    button.timer = setTimeout(() => { words.textContent = before; }, 2500);
  };

  // -- tabs: without this script all panels stand below one another

  const showTab = (tab, focus) => {
    const list = tab.closest("[role=tablist]");
    for (const each of list.querySelectorAll("[role=tab]")) {
      const on = each === tab;
      each.setAttribute("aria-selected", String(on));
      each.tabIndex = on ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).hidden = !on;
    }
    if (focus) tab.focus();
  };

  const setTabs = (list) => {
    const tabs = [...list.querySelectorAll("[role=tab]")];
    list.hidden = false;
    showTab(tabs[0], false);
    list.addEventListener("click", (event) => {
      const tab = event.target.closest("[role=tab]");
      if (tab) showTab(tab, false);
    });
    list.addEventListener("keydown", (event) => {
      const at = tabs.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      showTab(tabs[(to + tabs.length) % tabs.length], true);
    });
  };

  // -- a list that is searched while one types

  const filterRows = (input) => {
    const words = input.value.trim().toLowerCase();
    for (const row of document.getElementById(input.dataset.filters).querySelectorAll("[data-name]"))
      row.hidden = !row.dataset.name.toLowerCase().includes(words);
  };

  // -- fields that count only for one choice

  const showChoice = (radio) => {
    for (const part of document.querySelectorAll(`[data-when="${radio.name}"]`))
      part.hidden = part.dataset.is !== radio.value;
  };

  // -- a form is sent once; the server holds to that by itself

  const sendOnce = (event) => {
    const form = event.target;
    if (form.method !== "post" || event.defaultPrevented) return;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "1";
    for (const button of form.querySelectorAll("[type=submit]")) button.dataset.busy = "1";
  };

  const sendAgain = () => {
    for (const form of document.querySelectorAll("form[data-sent]")) {
      delete form.dataset.sent;
      for (const button of form.querySelectorAll("[data-busy]")) delete button.dataset.busy;
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-theme-switch]");
    if (!button) return;
    if (button.dataset.copy) copy(button);
    else nextTheme();
  });
  document.addEventListener("input", (event) => {
    if (event.target.dataset.filters) filterRows(event.target);
  });
  document.addEventListener("change", (event) => {
    if (event.target.type === "radio" && event.target.checked) showChoice(event.target);
    if (event.target.dataset.submits !== undefined) event.target.form.requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    // a filter inside of a form is no way to send it
    if (event.key === "Enter" && event.target.dataset && event.target.dataset.filters)
      event.preventDefault();
  });
  document.addEventListener("submit", sendOnce);
  // a page that the browser keeps for its back button keeps no key
  addEventListener("pagehide", () => {
    for (const secret of document.querySelectorAll("[data-secret]"))
      secret.textContent = "The key was shown once.";
  });
  addEventListener("pageshow", (event) => { if (event.persisted) sendAgain(); });

  const begin = () => {
    showTheme();
    document.querySelectorAll("[data-tabs]").forEach(setTabs);
    document.querySelectorAll("[data-when]").forEach((part) => {
      const chosen = document.querySelector(`[name="${part.dataset.when}"]:checked`);
      if (chosen) part.hidden = part.dataset.is !== chosen.value;
    });
    document.querySelectorAll("[data-with-script]").forEach((part) => { part.hidden = false; });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
