// Checks a page as it is drawn; returns its faults, one line each, and what was counted.
(() => {
  const wrong = [];
  const width = document.documentElement.clientWidth;
  const channels = (text) => {
    const found = text.match(/[\d.]+/g).map(Number);
    return found.length > 3 ? found : [...found, 1];
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (light + 0.05) / (dark + 0.05);
  };
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const name = (element) => `${element.tagName} ${(element.textContent || "").trim().slice(0, 30)}`;

  document.querySelectorAll("details").forEach((element) => (element.open = true));
  if (document.documentElement.scrollWidth > width) wrong.push(`the page is wider than the window: ${document.documentElement.scrollWidth} of ${width}`);

  let figures = 0;
  document.querySelectorAll("svg[role=img]").forEach((svg) => {
    figures += 1;
    const box = svg.getBoundingClientRect();
    if (box.width < 60 || box.height < 25) wrong.push(`${svg.id || svg.getAttribute("aria-labelledby")} is not visible: ${box.width} x ${box.height}`);
    if (!svg.closest(".scroll") && (box.left < 0 || box.right > width + 1)) wrong.push(`${svg.getAttribute("aria-labelledby")} lies outside of the window`);
    if (!svg.querySelector("path, rect, circle")) wrong.push(`${svg.getAttribute("aria-labelledby")} is empty`);
    const ticks = [...svg.querySelectorAll("text.tick")].map((t) => [t, t.getBoundingClientRect()]);
    ticks.forEach(([a, p], i) => ticks.slice(i + 1).forEach(([b, q]) => {
      if (p.left < q.right && q.left < p.right && p.top < q.bottom - 2 && q.top < p.bottom - 2) wrong.push(`${svg.getAttribute("aria-labelledby")}: ticks ${a.textContent} and ${b.textContent} overlap`);
    }));
    svg.querySelectorAll("text").forEach((t) => {
      const at = t.getBoundingClientRect();
      if (at.width && !svg.closest(".scroll") && (at.left < box.left - 3 || at.right > box.right + 3)) wrong.push(`${svg.getAttribute("aria-labelledby")}: ${t.textContent} is cut off`);
    });
  });

  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0, least = 99;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest("title, desc, style, .skip")) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const inside = element instanceof SVGElement;
    const ratio = contrast(channels(inside ? style.fill : style.color).slice(0, 3), background(inside ? element.closest("svg[role=img]") : element));
    texts += 1;
    least = Math.min(least, ratio);
    if (ratio < 4.5) wrong.push(`${name(element)}: contrast ${ratio.toFixed(2)}`);
    if (parseFloat(style.fontSize) < 11.5) wrong.push(`${name(element)}: letters of ${style.fontSize}`);
  }

  let level = 0;
  document.querySelectorAll("h1, h2, h3, h4, h5, h6").forEach((heading) => {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) wrong.push(`${name(heading)} comes after a heading of level ${level}`);
    level = next;
  });
  return { wrong: [...new Set(wrong)], figures, texts, least };
})();
