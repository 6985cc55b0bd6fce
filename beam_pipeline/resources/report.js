// Shows the pictures of one class, or one kind, alone. Without it, all are shown.
const filters = document.querySelector(".filters");
if (filters) {
  const [kind, category] = filters.querySelectorAll("select");
  const pictures = [...document.querySelectorAll(".gallery figure")];
  const show = () => {
    for (const one of pictures) {
      const has = (name, value) => !value || one.dataset[name].split(" ").includes(value);
      one.hidden = !(has("kinds", kind.value) && has("labels", category.value));
    }
    const shown = pictures.filter((one) => !one.hidden).length;
    filters.querySelector("output").textContent = `${shown} of ${pictures.length} pictures`;
  };
  filters.addEventListener("change", show);
  filters.hidden = false;
  show();
}
