// Brings the tiles up to date every half minute, while the page is looked at. Without it the page is the same.
const tiles = () => document.getElementById("tiles");
setInterval(async () => {
  if (document.hidden || !tiles() || tiles().contains(document.activeElement)) return;
  try {
    const answer = await fetch(location.href, { credentials: "same-origin" });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("tiles");
    if (fresh) tiles().replaceWith(fresh);
  } catch { /* The server is away for a moment: the next time. */ }
}, 30000);
