// Copies a policy document. Everything on the page works without this script.
"use strict";
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copies);
    const said = button.parentElement.querySelector(".copied");
    try {
      await navigator.clipboard.writeText(text.textContent);
      said.textContent = "Copied.";
    } catch {
      // No clipboard without TLS on an address that is not loopback: select it, so that one key press copies.
      getSelection().selectAllChildren(text);
      said.textContent = "Selected: press Ctrl+C.";
    }
  });
}
