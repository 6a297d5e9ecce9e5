// In the head and not deferred: a page must not flash in the other colours before it is drawn.
(() => {
  "use strict";
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
