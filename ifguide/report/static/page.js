(function () {
  "use strict";
  document.documentElement.classList.add("scripted");
  const cards = Array.from(document.querySelectorAll("article"));
  const bars = Array.from(document.querySelectorAll(".bar"));
  const barOf = card => card.closest("section").querySelector(".bar");

  bars.forEach(bar => {
    const box = bar.querySelector("input");
    const group = bar.querySelector("select");
    const all = bar.querySelector("button");
    const status = bar.querySelector("[role=status]");
    const mine = cards.filter(card => barOf(card) === bar);
    const headings = Array.from(bar.closest("section").querySelectorAll(".group"));
    const texts = mine.map(card =>
      Array.from(card.querySelectorAll("h3, .label, .text"), part => part.textContent).join("\n").toLowerCase());
    const unit = " " + bar.dataset.unit;
    const veiled = mine.filter(card => card.querySelector(".veil"));
    bar.hidden = false;
    all.hidden = !veiled.length;

    function filter() {
      const wanted = box.value.toLowerCase();
      const chosen = group ? group.value : "";
      let shown = 0;
      mine.forEach((card, i) => {
        card.hidden = !texts[i].includes(wanted) || (chosen !== "" && card.dataset.group !== chosen);
        if (!card.hidden) shown += 1;
      });
      headings.forEach(heading => {
        heading.hidden = !mine.some(card => !card.hidden && card.dataset.group === heading.dataset.group);
      });
      status.textContent = (wanted || chosen ? shown + " of " : "") + mine.length + unit;
    }

    box.addEventListener("input", filter);
    if (group) group.addEventListener("change", filter);
    box.addEventListener("keydown", event => {
      if (event.key === "Escape") { box.value = ""; filter(); box.blur(); }
    });
    all.addEventListener("click", () => {
      const open = veiled.some(card => !card.classList.contains("open"));
      veiled.forEach(card => reveal(card, open));
      all.textContent = open ? "blur all" : "show all";
    });
  });

  document.querySelectorAll(".scroller").forEach(scroller => {
    const inner = scroller.querySelector(".scroll");
    const hint = scroller.querySelector(".more");
    const look = () => {
      hint.hidden = inner.scrollWidth - inner.clientWidth - inner.scrollLeft < 8;
      hint.style.setProperty("--height", inner.offsetHeight + "px");
    };
    inner.addEventListener("scroll", look, { passive: true });
    window.addEventListener("resize", look);
    new ResizeObserver(look).observe(inner.querySelector("table"));
    look();
  });

  document.querySelectorAll(".columns").forEach(button => {
    const table = button.closest("section").querySelector("table");
    button.hidden = false;
    button.addEventListener("click", () => {
      const all = table.classList.toggle("all");
      button.textContent = all ? "show fewer metrics" : "show " + button.dataset.count + " more metrics";
    });
  });

  document.querySelectorAll(".sort").forEach(button => {
    button.disabled = false;
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const place = Array.from(head.parentNode.children).indexOf(head);
      const before = head.getAttribute("aria-sort");
      const up = before === "none" ? !button.textContent.endsWith("↑") : before === "descending";
      const value = row => {
        const cell = row.children[place];
        return cell && cell.dataset.value !== undefined ? Number(cell.dataset.value) : NaN;
      };
      head.parentNode.querySelectorAll("[aria-sort]").forEach(other => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      Array.from(body.rows).sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return up ? x - y : y - x;
      }).forEach(row => body.append(row));
    });
  });

  function reveal(card, open) {
    card.classList.toggle("open", open);
    const button = card.querySelector(".reveal");
    button.textContent = open ? "blur" : "show";
    button.setAttribute("aria-pressed", String(open));
  }

  function go(card) {
    if (!card) return;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "start" });
  }

  function step(from, by) {
    const visible = cards.filter(card => !card.hidden);
    const here = visible.indexOf(from);
    return here < 0 ? visible[0] : visible[here + by];
  }

  function current() {
    if (cards.includes(document.activeElement)) return document.activeElement;
    return cards.filter(card => !card.hidden && card.getBoundingClientRect().top <= 72).pop();
  }

  document.querySelectorAll(".reveal").forEach(button => { button.hidden = false; });
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
    if (event.key === "j") go(step(current(), 1));
    else if (event.key === "k") go(step(current(), -1));
    else if (event.key === "/" && bars.length) {
      event.preventDefault();
      const card = current();
      (card ? barOf(card) : bars[0]).querySelector("input").focus();
    } else if ((event.key === "Enter" || event.key === " ") && event.target.classList.contains("veil")) {
      event.preventDefault();
      event.target.click();
    }
  });
  document.addEventListener("click", event => {
    const veil = event.target.closest(".veil");
    const button = event.target.closest(".reveal");
    if (button) return reveal(button.closest("article"), button.textContent === "show");
    if (veil && !veil.closest(".open")) return reveal(veil.closest("article"), true);
    const link = event.target.closest("nav a[rel]");
    if (!link) return;
    event.preventDefault();
    go(step(link.closest("article"), link.rel === "next" ? 1 : -1));
  });

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const hide = () => { tip.hidden = true; };
  document.addEventListener("pointerover", event => {
    const token = event.target.closest(".t");
    if (!token || (token.closest(".veil") && !token.closest(".open"))) return hide();
    if (token.title) { token.dataset.tip = token.title; token.removeAttribute("title"); }
    tip.textContent = token.dataset.tip;
    tip.hidden = false;
    const at = token.getClientRects()[0] || token.getBoundingClientRect();
    const left = Math.min(at.left, window.innerWidth - tip.offsetWidth - 8);
    const above = at.top - tip.offsetHeight - 6;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (above > 0 ? above : at.bottom + 6) + "px";
  });
  window.addEventListener("scroll", hide, { passive: true });
})();
