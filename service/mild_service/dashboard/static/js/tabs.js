// Sections under [data-tabs] become tabs, as WAI-ARIA describes them: arrows move, Home and End jump.

export function enableTabs(scope = document) {
  for (const group of scope.querySelectorAll("[data-tabs]:not([data-enabled])")) enable(group);
}

function enable(group) {
  group.dataset.enabled = "";
  const panels = [...group.querySelectorAll("[data-tab]")];
  const list = document.createElement("div");
  list.className = "codes-tabs";
  list.setAttribute("role", "tablist");
  const tabs = panels.map((panel) => makeTab(panel));
  list.append(...tabs);
  group.prepend(list);
  const show = (chosen, focus) => {
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
      panels[i].hidden = i !== chosen;
    });
    if (focus) tabs[chosen].focus();
  };
  tabs.forEach((tab, i) => tab.addEventListener("click", () => show(i, false)));
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show((to + tabs.length) % tabs.length, true);
  });
  show(0, false);
}

function makeTab(panel) {
  const tab = document.createElement("button");
  tab.type = "button";
  tab.textContent = panel.dataset.tab;
  tab.id = `${panel.id}-tab`;
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", panel.id);
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", tab.id);
  return tab;
}
