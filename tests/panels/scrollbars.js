// Grafana's UI imports this package by names that its CommonJS build does not export.
const found = require('./node_modules/react-custom-scrollbars-2/lib/index.js');
export const Scrollbars = found.Scrollbars || found.default;
export default Scrollbars;
