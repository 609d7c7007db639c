"use strict";
// The page is complete without this: it adds a player above each film strip, and copy buttons.
for (const card of document.querySelectorAll(".filmcard")) {
  const player = card.querySelector(".player");
  const frames = [...card.querySelectorAll(".strip li")];
  const strip = card.querySelector(".scroll");
  const slider = player.querySelector("input");
  const button = player.querySelector(".play");
  const last = frames.length - 1;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let timer = 0;

  const show = (i) => {
    const [noisy, clean] = frames[i].querySelectorAll("img");
    const now = player.querySelector(".now"), guess = player.querySelector(".guess");
    now.src = noisy.src; now.alt = noisy.alt;
    guess.src = clean.src; guess.alt = clean.alt;
    player.querySelector("output b").textContent = frames[i].querySelector(".tick").textContent;
    slider.value = i;
    slider.setAttribute("aria-valuetext", player.querySelector("output").textContent);
    frames.forEach((frame, j) => frame.classList.toggle("on", i === j));
    const left = frames[i].offsetLeft - 24, right = frames[i].offsetLeft + frames[i].offsetWidth + 24;
    if (left < strip.scrollLeft) strip.scrollLeft = left;
    if (right > strip.scrollLeft + strip.clientWidth) strip.scrollLeft = right - strip.clientWidth;
  };
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  const play = () => {
    stop();
    show(0);
    button.textContent = "Pause";
    timer = setInterval(() => {
      const next = Number(slider.value) + 1;
      if (next > last) stop(); else show(next);
    }, Math.max(70, 2600 / frames.length));
  };

  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  button.addEventListener("click", () => { if (timer) stop(); else play(); });
  frames.forEach((frame, i) => frame.addEventListener("click", () => { stop(); show(i); }));
  player.hidden = false;
  show(last);
  strip.scrollLeft = 0;
  if (!calm && "IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); play(); }
    }, { threshold: 1 });
    seen.observe(player);
  }
}

for (const box of document.querySelectorAll(".command")) {
  const button = box.querySelector(".copy"), code = box.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
}
